"""Save arrays on the grid of another volume, and nothing else of its header."""

import itertools
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from ..errors import ImageError
from .headers import is_placed
from .volume import Array, Volume, by

__all__ = ["save_float", "save_labels", "save_probabilities"]

_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)
_PROBABILITY_STEP = 1 / 32767
_SCANNER = 1
"""Code of NIfTI for coordinates of the scanner."""


def save_labels(path: str | Path, data: Array, like: Volume) -> Path:
    """Save a label map on the grid of another volume, in the smallest integer type that fits.

    Parameters
    ----------
    path : str or Path
        ``.nii`` or ``.nii.gz``; appears only once it is complete.
    data : (X, Y, Z) integer array
    like : Volume
        Its affine, qform, sform and their codes are kept exactly; nothing else of its header is.
        If its header is that of a file on another grid, the code of its space is kept.

    Returns
    -------
    Path

    Raises
    ------
    ImageError
        If ``data`` has another shape than ``like``, or the file cannot be written.
    """
    low, high = int(data.min()), int(data.max())
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return _save(path, [data.astype(kind)], data.shape, like)
    raise ImageError(f"{path}: labels from {low} to {high} do not fit 32 bits; renumber them")


def save_float(path: str | Path, data: Array, like: Volume) -> Path:
    """Save a float32 image on the grid of another volume; otherwise as :func:`save_labels`."""
    return _save(path, [data.astype(np.float32)], data.shape, like)


def save_probabilities(path: str | Path, frames: Iterable[Array], count: int, like: Volume) -> Path:
    """Save a 4-D image of probabilities, one frame at a time, so that memory holds one.

    Values in [0, 1] are stored as int16 multiples of 1/32767 (``scl_slope``): half the size of
    float32, with an error below 2e-5.

    Parameters
    ----------
    path : str or Path
        ``.nii`` or ``.nii.gz``; appears only once it is complete.
    frames : iterable of ``count`` (X, Y, Z) float arrays
    count : int
        Number of frames.
    like : Volume
        As in :func:`save_labels`.

    Returns
    -------
    Path
    """
    scaled = (
        np.rint(np.clip(frame, 0, 1) / _PROBABILITY_STEP).astype(np.int16) for frame in frames
    )
    return _save(path, scaled, (*like.shape, count), like, slope=_PROBABILITY_STEP)


def _header(like: Volume, shape: tuple[int, ...], dtype: Any, slope: float) -> Any:
    source = like.header
    kind: Any = nb.Nifti2Header if isinstance(source, nb.Nifti2Header) else nb.Nifti1Header
    header = kind()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    if _describes(source, like):
        for field in _GEOMETRY:
            header[field] = source[field]
        header["pixdim"][:4] = source["pixdim"][:4]
    else:
        code = _space_code(source)
        header.set_qform(like.affine, code=code)
        header.set_sform(like.affine, code=code)
    header["pixdim"][4 : len(shape) + 1] = 1
    # The fourth axis is time in NIfTI; the BIDS validator asks for its unit even where it is not
    header.set_xyzt_units("mm", "sec" if len(shape) > 3 else None)
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    return header


def _describes(source: Any, like: Volume) -> bool:
    """Whether a header is that of the grid, or of a file that was brought to another one."""
    if not isinstance(source, nb.Nifti1Header):
        return False
    header: Any = source
    if (*header.get_data_shape(), 1, 1)[:3] != like.shape:
        return False
    # Where a header has no place, one was assumed, and is not written down as if it were known
    return not is_placed(header) or bool(
        np.allclose(header.get_best_affine(), like.affine, atol=1e-6)
    )


def _space_code(source: Any) -> int:
    """Code of the space that a header gives coordinates in; another grid lies in the same."""
    if not isinstance(source, nb.Nifti1Header):
        return _SCANNER
    return int(source["sform_code"] or source["qform_code"] or _SCANNER)


def _save(
    path: str | Path,
    frames: Iterable[Array],
    shape: tuple[int, ...],
    like: Volume,
    slope: float = 1.0,
) -> Path:
    path = Path(path)
    if tuple(shape[:3]) != like.shape:
        raise ImageError(
            f"{path}: data of shape {by(shape)} are not on the grid of {like.path} "
            f"({by(like.shape)}); bring them back to it first"
        )
    frames = iter(frames)
    first = next(frames)
    header = _header(like, shape, first.dtype, slope)
    try:
        with _replacing(path) as temporary, nb.openers.ImageOpener(str(temporary), "wb") as file:
            header.write_to(file)
            file.write(bytes(header.single_vox_offset - file.tell()))
            for frame in itertools.chain([first], frames):
                file.write(frame.tobytes(order="F"))
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error}); check space and rights") from error
    return path


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` that becomes ``path`` if all goes well."""
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
