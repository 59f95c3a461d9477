"""Where the volumes of one image lie among those of the group."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from .charts import box
from .inputs import FlagRow, ImageSummary
from .statistics import THRESHOLD, ImageValue, robust_center

__all__ = [
    "Group",
    "GroupRange",
    "Peers",
    "group_flags",
    "group_name",
    "group_ranges",
    "index_group",
]

_FEWEST = 3
"""Images that make a group to compare with."""


@attrs.frozen(eq=False)
class Peers:
    """Volumes (mm^3) of one structure in all images of one contrast."""

    places: Mapping[str, int]
    """Place of each image in ``numbers``, by its name."""
    numbers: npt.NDArray[np.float64]
    """Volumes."""

    def without(self, name: str) -> npt.NDArray[np.float64]:
        """Volumes in the other images."""
        place = self.places.get(name)
        return self.numbers if place is None else np.delete(self.numbers, place)


Group = Mapping[tuple[str, str], Peers]
"""Volumes of all images that were segmented with the same labels, by contrast and label."""


@attrs.frozen(kw_only=True)
class GroupRange:
    """Volumes of one structure in the other images of the group.

    It is summed up: a page of one participant tells no value of another one by name.
    """

    n: int
    """Number of the other images."""
    low: float
    """Smallest, mm^3."""
    high: float
    """Largest."""
    median: float
    """Median."""
    deviations: float | None
    """Distance of this image from the median of all in robust standard deviations; None if they
    are too few or too much alike (:func:`l2s_pydra.reports.statistics.robust_center`)."""
    svg: str
    """Drawing: range and quartiles, and a diamond for this one."""


def group_name(image: ImageSummary) -> str:
    """Name of an image in the tables of the group.

    >>> group_name({"source": "sub-01/anat/sub-01_run-2_T1w.nii.gz",
    ...             "entities": {"subject": "01", "run": "2", "suffix": "T1w"}})
    'sub-01_run-2_T1w'
    """
    stem = image["source"].rpartition("/")[2].split(".", 1)[0]
    own = image["entities"].get("desc")
    if own is None:
        return stem
    before = "_".join(p for p in stem.split("_")[:-1] if not p.startswith("desc-"))
    return f"{before}_{own}{image['entities']['suffix']}"


def index_group(values: Iterable[ImageValue]) -> Group:
    """Sort volumes by contrast and label; those that are not finite are left out."""
    group: dict[tuple[str, str], dict[str, float]] = {}
    for value in values:
        if np.isfinite(value.value):
            group.setdefault((value.contrast, value.label), {})[value.name] = value.value
    return {
        key: Peers({name: i for i, name in enumerate(known)}, np.array(list(known.values())))
        for key, known in group.items()
    }


def group_ranges(image: ImageSummary, group: Group) -> dict[str, GroupRange]:
    """Compare the structures of an image with those of other images of its contrast.

    Parameters
    ----------
    image : ImageSummary
        The image.
    group : Group
        Volumes of all images, those of the image itself may be among them.

    Returns
    -------
    dict
        One entry a structure that at least three other images have a volume of.
    """
    from markupsafe import Markup

    name = group_name(image)
    contrast = name.rpartition("_")[2]
    ranges = {}
    for row in _rows(image):
        peers = group.get((contrast, row["name"]))
        others = peers.without(name) if peers else np.empty(0)
        if len(others) < _FEWEST:
            continue
        own = row["volume_mm3"]
        five = tuple(float(q) for q in np.percentile(others, (0, 25, 50, 75, 100)))
        center = robust_center(np.append(others, own))
        ranges[row["name"]] = GroupRange(
            n=len(others),
            low=five[0],
            high=five[-1],
            median=five[2],
            deviations=(own - center[0]) / center[1] if center else None,
            svg=Markup(box([q / 1000 for q in five], n=len(others), mark=own / 1000)),
        )
    return ranges


def group_flags(image: ImageSummary, ranges: Mapping[str, GroupRange]) -> list[FlagRow]:
    """Tell volumes that are unusual in the group, by the rule of the group's page.

    Parameters
    ----------
    image : ImageSummary
        The image.
    ranges : mapping
        What :func:`group_ranges` says of it.

    Returns
    -------
    list of FlagRow
        See :func:`~l2s_pydra.reports.statistics.unusual_values`.
    """
    flags: list[FlagRow] = []
    for row in _rows(image):
        label = row["name"]
        others = ranges.get(label)
        if others is None or others.deviations is None or abs(others.deviations) <= THRESHOLD:
            continue
        side = "above" if others.deviations > 0 else "below"
        text = (
            f"{label}: {row['volume_mm3'] / 1000:.2f} ml is far {side} the group's median of "
            f"{others.median / 1000:.2f} ml (the {others.n} others: "
            f"{others.low / 1000:.2f} to {others.high / 1000:.2f} ml)"
        )
        flags.append({"kind": "group", "structures": [label], "text": text})
    return flags


def _rows(image: ImageSummary) -> list[dict[str, Any]]:
    """Rows of the structures and, where it is defined, of the inside of the skull."""
    rows: list[dict[str, Any]] = [dict(row) for row in image["volumes"]]
    inside = image.get("intracranial") or {}
    if inside.get("volume_mm3") is not None:
        rows.append({"name": "intracranial", "volume_mm3": inside["volume_mm3"]})
    return rows
