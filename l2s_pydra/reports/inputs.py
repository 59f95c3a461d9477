"""What pages are made of: plain values, as JSON holds them.

Every path is relative to the folder of the page, with ``/``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

__all__ = [
    "Failure",
    "Figure",
    "ImageSummary",
    "Link",
    "ModelReference",
    "ModelSummary",
    "Picture",
    "Role",
    "SettingBlock",
    "Sheet",
    "VolumeRow",
]


class Link(TypedDict):
    """A file or page to point to."""

    href: str
    """Relative path."""
    text: str
    """What it is."""


class Figure(TypedDict):
    """A picture of a page."""

    href: str
    """Relative path of the PNG."""
    alt: str
    """What the picture shows, for those who cannot see it."""
    caption: str
    """Text below."""


class VolumeRow(TypedDict):
    """Volume of one structure."""

    index: int
    """Value in the segmentation."""
    name: str
    """Name of the structure."""
    volume_mm3: float
    """Volume."""
    color: NotRequired[str | None]
    """``#rrggbb`` of the structure in the figure."""


class ModelReference(TypedDict):
    """Which model."""

    name: str
    """Name."""
    sha256: str
    """Checksum of the weights."""
    version: NotRequired[str]
    """Version of the software that learned it."""
    page: NotRequired[str]
    """Relative path of its page."""


class ImageSummary(TypedDict):
    """One segmented image; what the segment step writes as ``summary.json``."""

    image: str
    """File name of the image."""
    source: str
    """Path of the image below the raw data set."""
    entities: Mapping[str, str]
    """Entities and ``suffix`` of the image."""
    dseg: str
    """Relative path of the segmentation."""
    figure: str
    """Relative path of the overlay; empty if there is none."""
    volumes: Sequence[VolumeRow]
    """One a structure, without the background."""
    warnings: Sequence[str]
    """What a reader should know of this image, one line each."""
    model: ModelReference
    """The model that was used."""
    shape: Sequence[int]
    """Voxels along each axis."""
    spacing_mm: Sequence[float]
    """Voxel size along each axis."""
    seconds: NotRequired[float]
    """Time it took."""
    files: NotRequired[Sequence[Link]]
    """All outputs of the image; the segmentation alone by default."""


class Failure(TypedDict):
    """An image that could not be segmented."""

    file: str
    """Path of the image below its data set."""
    reason: str
    """One line: what is wrong and what to do."""
    name: NotRequired[str]
    """Unique name of the image."""
    participant: NotRequired[str]
    """``sub-<label>``; empty if it is nobody's image."""
    log: NotRequired[str]
    """Relative path of the crash file; empty if there is none."""


class SettingBlock(TypedDict):
    """A titled list of settings."""

    title: str
    """Heading."""
    items: Sequence[Mapping[str, Any]]
    """``name`` and ``value`` of each."""


class Role(TypedDict):
    """Who or what had one part in training."""

    title: str
    """``Learned from``, say."""
    explanation: str
    """What that means."""
    names: Sequence[str]
    """Participants or files."""


class ModelSummary(TypedDict):
    """A model folder in plain values."""

    name: str
    """Name."""
    sha256: str
    """Checksum of the weights."""
    mode: str
    """``learn2synth``, ``synthseg`` or ``supervised``."""
    best_dice: float | None
    """Validation Dice of the weights that were kept."""
    steps: int | None
    """Steps that were made."""
    seconds: float | None
    """Time of training."""
    settings: Sequence[SettingBlock]
    """Settings that matter."""
    config: Mapping[str, Any]
    """Everything in ``config.json``."""
    software: Mapping[str, str]
    """Versions."""
    labels: Sequence[Mapping[str, Any]]
    """``index``, ``name``, ``color`` and validation ``dice`` (or None) of each label."""
    roles: Sequence[Role]
    """Who learned, who validated, which label maps."""
    theta: Mapping[str, Mapping[str, float]]
    """``start``, ``average`` and ``final`` values of the augmentation, by name."""


class Picture(TypedDict):
    """A picture of a sheet, with what is written under it."""

    href: str
    """Relative path of the PNG."""
    alt: str
    """What the picture shows."""
    values: Mapping[str, float | str]
    """Name to a number or words."""


class Sheet(TypedDict):
    """Pictures of one kind."""

    id: str
    """Name of the section in links."""
    title: str
    """Heading."""
    explanation: str
    """What they are."""
    pictures: Sequence[Picture]
    """In order."""
