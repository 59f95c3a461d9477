"""What the entries of page data must look like, so that a broken one can be left out of a page.

Page data are JSON that outlives versions of the software, and may be edited or cut short. An entry is
compared with a pattern of plain types, the part of :mod:`l2s_pydra.reports.inputs` that pages need.
"""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["FAILURE", "IMAGE", "RUN", "find_fault"]

_NUMBER = (int, float)
_NUMBER_OR_NONE = (int, float, None)
_VOLUME = {
    "index": int,
    "name": str,
    "volume_mm3": _NUMBER,
    "soft_volume_mm3?": _NUMBER,
    "self_dice?": _NUMBER_OR_NONE,
    "predicted_dice?": _NUMBER_OR_NONE,
    "color?": (str, None),
}
_INTRACRANIAL = (
    {"volume_mm3": _NUMBER, "soft_volume_mm3": _NUMBER, "structures": [str]},
    {"volume_mm3": None, "reason": str},
)
IMAGE: Mapping[str, Any] = {
    "image": str,
    "source": str,
    "entities": {"subject": str, "suffix": str},
    "dseg": str,
    "figure": str,
    "volumes": [_VOLUME],
    "warnings": [str],
    "header_warnings?": [str],
    "flags?": [{"structures": [str], "text": str}],
    "segmentation?": str,
    "intracranial?": _INTRACRANIAL,
    "removed?": [{"Name": str, "Pieces": int, "Voxels": int, "VolumeMm3": _NUMBER}],
    "calibration?": {"images?": (int, None), "error?": _NUMBER_OR_NONE},
    "run?": str,
    "model": {"name": str, "sha256": str},
    "shape": [int],
    "spacing_mm": [_NUMBER],
    "seconds?": _NUMBER,
    "files?": [{"href": str, "text": str}],
}
"""Pattern of :class:`l2s_pydra.reports.inputs.ImageSummary`."""
FAILURE: Mapping[str, Any] = {"file": str, "reason": str, "log?": (str, None)}
"""Pattern of :class:`l2s_pydra.reports.inputs.Failure`."""
RUN: Mapping[str, Any] = {
    "run?": {"id?": str},
    "command?": {"line?": [str]},
    "software?": {},
    "settings?": {},
}
"""Pattern of the record of a run (:func:`l2s_pydra.bids.provenance.run_record`)."""


def find_fault(value: Any, pattern: Any, place: str = "entry") -> str:
    """Say where a JSON value departs from a pattern.

    Parameters
    ----------
    value : object
        The value.
    pattern : type, None, list, tuple or mapping
        A type; None; a list of one pattern, that of all items; a tuple of patterns, one of which
        must fit; a mapping of keys to patterns, where a key that ends in ``?`` may be absent.
    place : str
        Where the value is, for the message.

    Returns
    -------
    str
        Empty if it fits.

    Examples
    --------
    >>> find_fault({"volumes": [{"name": 3}]}, {"volumes": [{"name": str}]}, "image")
    "image, 'volumes', item 1, 'name': not of type str"
    >>> find_fault({"name": "stem"}, {"name": str, "color?": (str, None)})
    ''
    """
    if pattern is None:
        return "" if value is None else f"{place}: not null"
    if isinstance(pattern, type):
        return "" if isinstance(value, pattern) else f"{place}: not of type {pattern.__name__}"
    if isinstance(pattern, tuple):
        faults = [find_fault(value, choice, place) for choice in pattern]
        return faults[0] if all(faults) else ""
    if isinstance(pattern, list):
        return _fault_of_list(value, pattern[0], place)
    return _fault_of_mapping(value, pattern, place)


def _fault_of_list(value: Any, pattern: Any, place: str) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return f"{place}: not a list"
    faults = (find_fault(item, pattern, f"{place}, item {i}") for i, item in enumerate(value, 1))
    return next((fault for fault in faults if fault), "")


def _fault_of_mapping(value: Any, pattern: Mapping[str, Any], place: str) -> str:
    if not isinstance(value, Mapping):
        return f"{place}: not an object"
    for key, part in pattern.items():
        name = key.removesuffix("?")
        if name in value:
            if fault := find_fault(value[name], part, f"{place}, {name!r}"):
                return fault
        elif name == key:
            return f"{place}: without {name!r}"
    return ""
