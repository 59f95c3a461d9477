"""How the example data sets are written: reproducible NIfTI, JSON and TSV files."""

import gzip
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

BIDS_VERSION = "1.11.1"


def write_nifti(path: Path, data: npt.NDArray[Any], affine: npt.NDArray[np.floating]) -> None:
    """Write a NIfTI-1 image whose bytes depend on its content alone.

    Parameters
    ----------
    path : Path
        Ends in ``.nii`` or ``.nii.gz``; missing folders are made.
    data : (X, Y, Z) array
        Stored with its own type, slope 1.
    affine : (4, 4) array
        Voxel to scanner RAS+, mm.
    """
    image = nib.Nifti1Image(data, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm", "sec")  # type: ignore[no-untyped-call]
    image.set_qform(affine, code=1)  # type: ignore[no-untyped-call]
    image.set_sform(affine, code=1)  # type: ignore[no-untyped-call]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = image.to_bytes()
    if path.suffix == ".gz":
        # mtime=0: the gzip header holds a time stamp otherwise.
        content = gzip.compress(content, compresslevel=9, mtime=0)
    path.write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an indented JSON file; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a BIDS table: tab-separated, with a header line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, row)) for row in (columns, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def empty_folder(folder: Path) -> Path:
    """Remove what an earlier run wrote, and make the folder."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "dataset_description.json").is_file():
            raise FileExistsError(f"{folder} holds something else; give a new folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def smallest_integers(labels: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
    """Labels in the smallest of uint8 and int16 that holds them."""
    dtype = np.uint8 if labels.min() >= 0 and labels.max() <= 255 else np.int16
    return labels.astype(dtype)
