"""Volumes: load, check, compare.

World coordinates are RAS+ millimetres throughout, as in nibabel.
"""

import gzip
import io
import itertools
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import attrs
import nibabel as nb
import numpy as np
import numpy.typing as npt

from ..errors import GridMismatchError, ImageError, LabelError

__all__ = [
    "Volume",
    "by",
    "check_same_grid",
    "load_image",
    "load_labels",
    "voxel_volume_mm3",
]

Array = npt.NDArray[Any]

_log = logging.getLogger(__name__)
_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    nb.filebasedimages.ImageFileError,
    nb.spatialimages.HeaderDataError,
    nb.wrapstruct.WrapStructError,
)
_SAME_GRID_MM = 1e-3
_FIELD_OF_VIEW_MM = (2.0, 2000.0)


def _is_affine(_: object, field: Any, value: Array) -> None:
    if value.shape != (4, 4):
        raise ValueError(f"{field.name} must be a 4 x 4 matrix, not of shape {value.shape}")


@attrs.frozen(kw_only=True, eq=False)
class Volume:
    """A 3-D array and its place in the world."""

    data: Array
    """(X, Y, Z), float32 for images, int32 for labels, in the file's own axis order."""
    affine: npt.NDArray[np.float64] = attrs.field(validator=_is_affine)
    """(4, 4), voxel indices to RAS+ mm."""
    header: Any = attrs.field(repr=False)
    """nibabel header of the file."""
    path: Path = attrs.field(converter=Path)
    """The file."""
    warnings: tuple[str, ...] = ()
    """What is odd about the file and was mended or assumed; logged as well."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along each axis, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def voxel_volume_mm3(affine: Array) -> float:
    """Volume of one voxel, mm3: the determinant of the affine.

    >>> voxel_volume_mm3(np.diag([-1.0, 2.0, 3.0, 1.0]))
    6.0
    """
    return float(round(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])), 9))


def load_image(path: str | Path, *, allow_2d: bool = False) -> Volume:
    """Load and check an intensity image.

    The header's intensity scaling is applied, trailing axes of length one are dropped, and single
    voxels that are not finite become 0, with a warning.

    Parameters
    ----------
    path : str or Path
        NIfTI-1 or -2 (``.nii``, ``.nii.gz``) or FreeSurfer (``.mgz``, ``.mgh``).
    allow_2d : bool, default=False
        Whether a single slice, which becomes (X, Y, 1), will do.

    Returns
    -------
    Volume
        float32.

    Raises
    ------
    ImageError
        If the file is missing, empty, truncated, no image, not 3-D, of one value only, without a
        finite value, or without a usable affine.
    """
    image, warnings = _open(path, allow_2d)
    with np.errstate(over="ignore", invalid="ignore"):
        data = _read(image, path).astype(np.float32, copy=False)
    finite = np.isfinite(data)
    if not finite.all():
        bad = int(data.size - np.count_nonzero(finite))
        if bad == data.size:
            raise ImageError(f"{path}: no voxel holds a finite number; export the image again")
        warnings.append(f"{bad} voxels are not finite numbers and were set to 0")
        data = np.where(finite, data, np.float32(0))
    if data.min() == data.max():
        raise ImageError(
            f"{path}: every voxel is {data.flat[0]:g}; give an image that shows something"
        )
    return _volume(data, image, path, warnings)


def load_labels(
    path: str | Path, *, allow_2d: bool = False, allow_constant: bool = False
) -> Volume:
    """Load and check a label map.

    Parameters
    ----------
    path : str or Path
        As for :func:`load_image`. Whole numbers stored as floating point will do; negative values
        are kept.
    allow_2d : bool, default=False
        Whether a single slice, which becomes (X, Y, 1), will do.
    allow_constant : bool, default=False
        Whether a map of one single value will do.

    Returns
    -------
    Volume
        int32.

    Raises
    ------
    ImageError
        As for :func:`load_image`.
    LabelError
        If a value is not a whole number of 32 bits.
    """
    image, warnings = _open(path, allow_2d)
    stored = _read(image, path)
    labels = _whole_numbers(stored, path)
    if not allow_constant and labels.min() == labels.max():
        raise ImageError(
            f"{path}: every voxel is {labels.flat[0]}; give a label map with structures in it"
        )
    return _volume(labels, image, path, warnings)


def check_same_grid(image: Volume, labels: Volume) -> None:
    """Check that two volumes have the same voxels in the same places.

    Raises
    ------
    GridMismatchError
        If the shapes differ, or a corner lies more than a micrometre from its counterpart.
    """
    remedy = "resample the labels onto the image's grid by nearest neighbour"
    if image.shape != labels.shape:
        raise GridMismatchError(
            f"{labels.path}: shape {by(labels.shape)} differs from {by(image.shape)} of "
            f"{image.path}; {remedy}"
        )
    corners = _corners(image.shape)
    gaps = np.linalg.norm((image.affine - labels.affine)[:3] @ corners, axis=0)
    if gaps.max() > _SAME_GRID_MM:
        raise GridMismatchError(
            f"{labels.path}: voxels lie up to {gaps.max():.3g} mm from those of {image.path}; "
            f"{remedy}, or correct the affine of the wrong one"
        )


def _open(path: str | Path, allow_2d: bool) -> tuple[Any, list[str]]:
    """Open a file without reading its voxels; check all that the header tells."""
    path = Path(path)
    _check_file(path)
    try:
        image: Any = nb.load(path, mmap=False)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    _check_shape(image.shape, path, allow_2d)
    if image.get_data_dtype().kind not in "biuf":
        raise ImageError(
            f"{path}: stores {image.get_data_dtype()} voxels; "
            "convert it to a greyscale image of real numbers"
        )
    _check_affine(image, path)
    return image, _orientation_warnings(image)


def _check_file(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise ImageError(f"{path}: links to content that is not here; fetch it (datalad get)")
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the path")
    if not path.name.lower().endswith(_SUFFIXES):
        raise ImageError(f"{path}: unknown format; convert it to one of {', '.join(_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty; copy or export it again")


def _unreadable(path: str | Path, error: BaseException) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(
        f"{path}: cannot be read, it may be truncated or no image ({reason}); "
        "copy or export it again"
    )


def _check_shape(shape: tuple[int, ...], path: Path, allow_2d: bool) -> None:
    if 0 in shape:
        raise ImageError(f"{path}: has an axis of length 0 ({by(shape)}); export it again")
    extra = int(np.prod(shape[3:], dtype=np.int64))
    if extra > 1:
        raise ImageError(
            f"{path}: has {extra} volumes ({by(shape)}) where one is expected; extract one"
        )
    flat = 3 - len(shape[:3]) + sum(n == 1 for n in shape[:3])
    if flat > 1 or (flat == 1 and not allow_2d):
        raise ImageError(
            f"{path}: is not 3-D ({by(shape)}); give a volume"
            + ("" if flat > 1 else ", or use a 2-D model for single slices")
        )


def _check_affine(image: Any, path: Path) -> None:
    affine = image.affine
    if affine is None or not np.isfinite(affine).all():
        raise ImageError(f"{path}: its affine is not finite; correct the qform or sform")
    linear = affine[:3, :3]
    scale = np.linalg.norm(linear, axis=0)
    # Relative to its columns, so that small voxels are no fault
    if not scale.all() or abs(np.linalg.det(linear / scale)) < 1e-4:
        raise ImageError(f"{path}: its affine is singular; correct the qform or sform")
    extent = scale[: len(image.shape[:3])] * image.shape[:3]
    low, high = _FIELD_OF_VIEW_MM
    if extent.max() < low or extent.max() > high:
        raise ImageError(
            f"{path}: its field of view is {' x '.join(f'{e:.3g}' for e in extent)} mm; "
            "correct the voxel size, which is in mm"
        )


def _orientation_warnings(image: Any) -> list[str]:
    header = image.header
    if isinstance(header, nb.Nifti1Header) and not (header["qform_code"] or header["sform_code"]):
        return [
            "neither qform nor sform is set; assumed the axes "
            + "".join(nb.orientations.aff2axcodes(image.affine))  # type: ignore[no-untyped-call]
        ]
    return []


def _read(image: Any, path: str | Path) -> Array:
    """Voxels, 3-D, with the header's scaling applied."""
    path = Path(path)
    try:
        if path.suffix in (".gz", ".mgz"):
            # At once and to its end: nibabel alone stops before the checksum
            content = io.BytesIO(gzip.decompress(path.read_bytes()))
            image = type(image).from_stream(content)
        data = np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return np.reshape(data, (*data.shape[:3], 1)[:3], order="F")


def _whole_numbers(stored: Array, path: str | Path) -> npt.NDArray[np.int32]:
    wrong = LabelError(f"{path}: holds values that are no whole numbers; give a label map")
    if stored.dtype.kind == "f":
        if not np.isfinite(stored).all():
            raise wrong
        whole = np.rint(stored)
        # A slope such as 1/255 leaves whole numbers inexact
        if np.abs(stored - whole).max() > 1e-3:
            raise wrong
        stored = whole
    limits = np.iinfo(np.int32)
    if stored.min() < limits.min or stored.max() > limits.max:
        raise LabelError(f"{path}: holds labels beyond 32 bits; renumber them")
    return stored.astype(np.int32)


def _volume(data: Array, image: Any, path: str | Path, warnings: list[str]) -> Volume:
    for warning in warnings:
        _log.warning("%s: %s", path, warning)
    return Volume(
        data=data,
        affine=np.asarray(image.affine, dtype=np.float64),
        header=image.header,
        path=Path(path),
        warnings=tuple(warnings),
    )


def _corners(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """(4, 8) homogeneous indices of the corner voxels."""
    return np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape))]).T * 1.0


def by(shape: tuple[int, ...]) -> str:
    """Write a shape for a message.

    >>> by((4, 5, 6))
    '4 x 5 x 6'
    """
    return " x ".join(map(str, shape))
