"""What pages are made of: plain values, as JSON holds them.

Every path is relative to the folder of the page, with ``/``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

__all__ = [
    "Failure",
    "Figure",
    "FlagRow",
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
    soft_volume_mm3: NotRequired[float]
    """Sum of the posteriors times the volume of a voxel."""
    self_dice: NotRequired[float | None]
    """Agreement of the posterior with the label map; None where the structure was not found."""
    predicted_dice: NotRequired[float | None]
    """Dice that is to be expected; None if the model holds no calibration."""
    color: NotRequired[str | None]
    """``#rrggbb`` of the structure in the figure."""


class FlagRow(TypedDict):
    """A remark on the quality of a segmentation."""

    kind: str
    """``field of view``, ``score``, ``asymmetry``, ``pieces`` or ``group``."""
    structures: Sequence[str]
    """Names of the structures it is about."""
    text: str
    """The remark."""


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
    header_warnings: NotRequired[Sequence[str]]
    """What is odd about the file, one line each."""
    flags: NotRequired[Sequence[FlagRow]]
    """Remarks on the quality."""
    segmentation: NotRequired[str]
    """Value of the ``seg`` entity of the outputs."""
    intracranial: NotRequired[Mapping[str, Any]]
    """``volume_mm3``, ``soft_volume_mm3`` (None if not defined), ``structures``, ``reason``."""
    removed: NotRequired[Sequence[Mapping[str, Any]]]
    """``Name``, ``Pieces``, ``Voxels`` and ``VolumeMm3`` of what was taken from structures."""
    calibration: NotRequired[Mapping[str, Any]]
    """``images`` and ``error`` of the fit behind the predicted Dice; None without one."""
    run: NotRequired[str]
    """Identifier of the run that made it."""
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
