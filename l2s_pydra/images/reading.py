"""Files of images: headers and voxels, with no more memory than the voxels take.

Files come from anywhere and may be cut, damaged or made to harm: sizes are compared with what the
file can hold before anything is allocated, and it is read to its end, where the checksum is.
"""

import gzip
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from .headers import sizes

__all__ = ["open_image", "read_voxels"]

Array = npt.NDArray[Any]

_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
_FREESURFER = (".mgz", ".mgh")
_COMPRESSED = (".gz", ".mgz")
_UNREADABLE = (OSError, EOFError, ValueError, OverflowError, MemoryError, struct.error, zlib.error)
_CHUNK_BYTES = 2**24
_GZIP = b"\x1f\x8b"
"""What each gzip stream starts with."""
_DEFLATE_RATIO = 1032
"""Bytes that deflate makes of one at the most (zlib's technical details)."""
_MOST_BEHIND = 2**28
"""Bytes behind the voxels that are read for the checksum; FreeSurfer keeps notes there."""
_RAS_FLAG = slice(28, 30)
"""goodRASFlag in the header of .mgh."""
_CORONAL = ((-1, 0, 0), (0, 0, -1), (0, 1, 0))
"""Directions of the axes without that flag, as FreeSurfer has them; nibabel's are turned."""


def open_image(path: Path) -> tuple[Any, list[str]]:
    """Open a file without reading its voxels.

    Returns
    -------
    image : nibabel image
        A volume of real numbers, whose voxels the file is long enough to hold.
    warnings : list of str
        What nibabel mended in the header, and what it says of extensions.

    Raises
    ------
    ImageError
        If the file is missing, empty, truncated or holds something else.
    """
    _check_file(path)
    told: list[str] = []
    try:
        with _listening(told):
            image = _opened(path, told)
    # Whatever a parser says of bytes that are not what it expects, the file is to blame
    except Exception as error:
        raise _unreadable(path, error) from error
    if not isinstance(image, nb.Nifti1Pair | nb.MGHImage):
        raise ImageError(
            f"{path}: is a {type(image).__name__.removesuffix('Image')} file and holds no volume; "
            "convert it to a NIfTI volume"
        )
    if image.get_data_dtype().kind not in "biuf":
        raise ImageError(
            f"{path}: stores {image.get_data_dtype()} voxels; "
            "convert it to a greyscale image of real numbers"
        )
    _check_length(image, path)
    return image, told


def read_voxels(
    image: Any, path: Path, dtype: npt.DTypeLike | None = None, told: list[str] | None = None
) -> Array:
    """Read the voxels of an opened file, with the header's scaling applied.

    Parameters
    ----------
    image : nibabel image
        From :func:`open_image`.
    path : Path
        Its file.
    dtype : data type, optional
        By default that of the file, or what the scaling makes of it.
    told : list of str, optional
        Takes what is odd about the file and no reason to refuse it.

    Returns
    -------
    (X, Y, Z) array
        Of the machine's byte order, the first axis running fastest.

    Raises
    ------
    ImageError
        If the file is truncated or damaged.
    """
    proxy = image.dataobj
    count = math.prod(sizes(image))
    voxels: Array | None = None
    try:
        with _content(path) as file, np.errstate(over="ignore", invalid="ignore"):
            _skip(file, proxy.offset)
            for start, chunk in _chunks(file, np.dtype(proxy.dtype), count):
                scaled = nb.volumeutils.apply_read_scaling(
                    chunk, np.asanyarray(proxy.slope), np.asanyarray(proxy.inter)
                )
                if voxels is None:
                    voxels = np.empty(count, np.dtype(dtype or scaled.dtype).newbyteorder("="))
                voxels[start : start + len(scaled)] = scaled
            odd = _read_to_end(file, path)
            if odd and told is not None:
                told.append(odd)
    except _UNREADABLE as error:
        if isinstance(error, ImageError):
            raise
        raise _unreadable(path, error) from error
    shape = (*sizes(image), 1, 1)[:3]
    return np.reshape(np.empty(0) if voxels is None else voxels, shape, order="F")


def _opened(path: Path, told: list[str]) -> Any:
    if not path.name.lower().endswith(_FREESURFER):
        return nb.load(path, mmap=False)
    # By its name, nibabel would leave the file open
    with _content(path) as file:
        oriented = any(file.read(_RAS_FLAG.stop)[_RAS_FLAG])
        file.seek(0)
        image: Any = nb.MGHImage.from_stream(file)
    if oriented:
        return image
    told.append(
        "its orientation is not set (goodRASFlag); assumed FreeSurfer's coronal axes (LIA) and "
        "voxels of 1 mm"
    )
    image.header["Mdc"] = _CORONAL
    return type(image)(image.dataobj, image.header.get_affine(), image.header)


def _check_file(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise ImageError(f"{path}: links to content that is not here; fetch it (datalad get)")
    if not path.is_file():
        raise ImageError(f"{path}: no such file; check the path")
    if not path.name.lower().endswith(_SUFFIXES):
        raise ImageError(f"{path}: unknown format; convert it to one of {', '.join(_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty; copy or export it again")


def _unreadable(path: Path, error: BaseException) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(
        f"{path}: cannot be read, it may be truncated or no image ({reason}); "
        "copy or export it again"
    )


@contextmanager
def _listening(told: list[str]) -> Iterator[None]:
    """Keep what nibabel logs and warns of a header, instead of its being printed."""

    def keep(record: logging.LogRecord) -> bool:
        told.append(f"its header is odd: {' '.join(record.getMessage().split())}")
        return False

    logger = nb.imageglobals.logger
    logger.addFilter(keep)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        told.extend(
            f"its header is odd: {' '.join(str(w.message).split())}"
            for w in caught
            if issubclass(w.category, UserWarning)
        )
    finally:
        logger.removeFilter(keep)


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(_COMPRESSED)


def _check_length(image: Any, path: Path) -> None:
    """Refuse a header that promises more voxels than the file can hold."""
    held = path.stat().st_size * (_DEFLATE_RATIO if _is_compressed(path) else 1)
    offset = int(image.dataobj.offset)
    needed = offset + math.prod(sizes(image)) * image.get_data_dtype().itemsize
    if offset < 0 or min(sizes(image), default=0) < 0 or needed > held:
        raise _unreadable(path, ValueError(f"its header promises {needed} bytes"))


@contextmanager
def _content(path: Path) -> Iterator[Any]:
    with path.open("rb") as stored:
        if not _is_compressed(path):
            yield stored
            return
        with gzip.open(stored) as file:
            yield file


def _skip(file: Any, count: int) -> None:
    if file.seek(count) != count:
        raise EOFError("no voxels behind the header")


def _chunks(file: Any, dtype: np.dtype[Any], count: int) -> Iterator[tuple[int, Array]]:
    """Read numbers from a file, some at a time; give the position of each part, too."""
    step = max(1, _CHUNK_BYTES // dtype.itemsize)
    for start in range(0, count, step):
        chunk = np.empty(min(step, count - start), dtype=dtype)
        view: Any = memoryview(chunk.view(np.uint8))  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            got = file.readinto(view[done:])
            if not got:
                missing = (count - start) * dtype.itemsize - done
                raise EOFError(f"{missing} bytes of voxels are missing")
            done += got
        yield start, chunk


def _read_to_end(file: Any, path: Path) -> str:
    """Read what lies behind the voxels, so that the checksum is compared; say what is odd."""
    behind = 0
    try:
        while part := file.read(2**16):
            behind += len(part)
            if behind > _MOST_BEHIND:
                raise ImageError(f"{path}: goes on long after its voxels; export it again")
    except gzip.BadGzipFile:
        stray = _stray_bytes(path)
        if not stray:
            raise
        return f"{stray} bytes that do not belong to it lie behind its compressed content"
    return ""


def _stray_bytes(path: Path) -> int:
    """Bytes behind the gzip streams of a file, all of which are whole and have their checksum.

    Raises
    ------
    zlib.error
        If a stream is damaged.
    """
    with path.open("rb") as stored:
        rest = stored.read(_CHUNK_BYTES)
        while rest.startswith(_GZIP):
            stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            while not stream.eof:
                if not rest and not (rest := stored.read(_CHUNK_BYTES)):
                    return 0
                stream.decompress(rest, _CHUNK_BYTES)
                rest = stream.unused_data if stream.eof else stream.unconsumed_tail
            if len(rest) < len(_GZIP):
                rest += stored.read(_CHUNK_BYTES)
        return len(rest) + path.stat().st_size - stored.tell()
