"""Where the volumes of one image lie among those of the group."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from .charts import strip
from .inputs import FlagRow, ImageSummary
from .statistics import ImageValue, unusual_values

__all__ = ["Group", "GroupRange", "group_flags", "group_name", "group_ranges", "index_group"]

_FEWEST = 3
"""Images that make a group to compare with."""
Group = Mapping[tuple[str, str], Sequence[ImageValue]]
"""Volumes (mm^3) of all images that were segmented with the same labels, by contrast and label."""


@attrs.frozen(kw_only=True)
class GroupRange:
    """Volumes of one structure in the other images of the group."""

    n: int
    """Number of the other images."""
    low: float
    """Smallest, mm^3."""
    high: float
    """Largest."""
    median: float
    """Median."""
    svg: str
    """Drawing: a dot an image, a diamond for this one."""


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
    group: dict[tuple[str, str], list[ImageValue]] = {}
    for value in values:
        if np.isfinite(value.value):
            group.setdefault((value.contrast, value.label), []).append(value)
    return group


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

    ranges = {}
    for row in _rows(image):
        others = _others(image, group, row["name"])
        if len(others) < _FEWEST:
            continue
        numbers = [value.value for value in others]
        points = [(value.name, value.value / 1000) for value in others]
        ranges[row["name"]] = GroupRange(
            n=len(others),
            low=min(numbers),
            high=max(numbers),
            median=float(np.median(numbers)),
            svg=Markup(strip(points, mark=row["volume_mm3"] / 1000)),
        )
    return ranges


def group_flags(image: ImageSummary, group: Group) -> list[FlagRow]:
    """Tell volumes that are unusual in the group, by the rule of the group's page.

    Parameters
    ----------
    image : ImageSummary
        The image.
    group : Group
        As for :func:`group_ranges`.

    Returns
    -------
    list of FlagRow
        See :func:`~l2s_pydra.reports.statistics.unusual_values`.
    """
    name, ranges = group_name(image), group_ranges(image, group)
    flags: list[FlagRow] = []
    for row in _rows(image):
        label = row["name"]
        own = ImageValue(name, label, row["volume_mm3"])
        values = [*_others(image, group, label), own]
        for unusual in unusual_values(values):
            if unusual.name == name and label in ranges:
                others = ranges[label]
                side = "above" if unusual.deviations > 0 else "below"
                text = (
                    f"{label}: {unusual.value / 1000:.2f} ml is far {side} the group's median of "
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


def _others(image: ImageSummary, group: Group, label: str) -> list[ImageValue]:
    name = group_name(image)
    peers = group.get((name.rpartition("_")[2], label), ())
    return [value for value in peers if value.name != name]
