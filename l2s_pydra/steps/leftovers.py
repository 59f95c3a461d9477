"""What an earlier model wrote for an image, beside the outputs of a later one."""

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..bids.derivatives import derivative_path
from ..errors import DatasetError
from ..jsonfiles import read_json
from .outputs import IMAGE_OUTPUTS, ImageOutput

__all__ = ["remove_leftovers"]

logger = logging.getLogger(__name__)
_ANY = "any"
_DATA = (".nii.gz", ".tsv")
_UNSIGNED = ("figure", "morph", "morph_json")
"""Outputs that do not say which model made them."""


def remove_leftovers(
    *,
    tree: Path,
    output_dir: Path,
    entities: Mapping[str, str],
    source: str,
    segmentation: str,
    published: Collection[str] | None = None,
) -> list[Path]:
    """Remove outputs of an image that another model wrote under the same segmentation.

    Posteriors, entropy or outputs on the network's grid stay in the output folder when a later run
    does not ask for them. If its model is another one, they would contradict the new label map.
    Only files whose sidecar names the image as its source, and another model, are removed, with
    their sidecars and label tables; masks, whose names do not tell the segmentation, if theirs is the
    model of other files under it; and volumes and figure, which name no model, if there are such files.

    Parameters
    ----------
    tree : Path
        Staged tree of the image.
    output_dir : Path
        Root of the derivative.
    entities : mapping
        Entities and ``suffix`` of the image.
    source : str
        Path of the image below the raw data set.
    segmentation : str
        ``seg`` entity of the outputs.
    published : collection of str, optional
        Files of the tree that are published, by their paths below it, if that is not all.

    Returns
    -------
    list of Path
        What was removed.

    Raises
    ------
    DatasetError
        If a file cannot be removed.
    """
    tree, output_dir = Path(tree), Path(output_dir)
    dseg = derivative_path(entities, IMAGE_OUTPUTS["dseg_json"], segmentation=segmentation)
    current = _read(tree / dseg).get("ModelSHA256")
    if not current:
        return []
    rows = [row for row in IMAGE_OUTPUTS.values() if row.extension == ".json"]
    former: set[str] = set()
    stale: list[Path] = []
    for row in sorted(rows, key=lambda row: not row.segmented):
        for sidecar in _sidecars(row, output_dir, entities, segmentation):
            written = _read(sidecar)
            model = str(written.get("ModelSHA256", ""))
            mine = f"bids:raw:{source}" in (written.get("Sources") or ())
            another = model not in ("", current) and (row.segmented or model in former)
            if mine and another:
                former.add(model)
                stale += _with_data(sidecar)
    if former:  # first, as nothing would tell of them any more once the others are gone
        rows = [IMAGE_OUTPUTS[key] for key in _UNSIGNED]
        unsigned = [derivative_path(entities, row, segmentation=segmentation) for row in rows]
        stale = [*(output_dir / path for path in unsigned), *stale]
    new = _files(tree) if published is None else published
    old = (path for path in stale if path.relative_to(output_dir).as_posix() not in new)
    return [path for path in old if _remove(path)]


def _files(tree: Path) -> set[str]:
    paths = (path for path in tree.rglob("*") if path.is_file())
    return {path.relative_to(tree).as_posix() for path in paths}


def _sidecars(
    row: ImageOutput, output_dir: Path, entities: Mapping[str, str], segmentation: str
) -> Iterator[Path]:
    """Sidecars of an output of an image, on its grid and on that of any network."""
    on_any = attrs.evolve(row, entities={**row.entities, "res": _ANY})
    own, other = (
        derivative_path(entities, kind, segmentation=segmentation) for kind in (row, on_any)
    )
    folder = output_dir / own.parent
    yield from {
        *folder.glob(own.name),
        *folder.glob(other.name.replace(f"_res-{_ANY}_", "_res-*_")),
    }


def _read(sidecar: Path) -> dict[str, Any]:
    try:
        values = read_json(sidecar)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _with_data(sidecar: Path) -> list[Path]:
    """Files that a sidecar belongs to, and the sidecar, which tells of them, last."""
    stem = sidecar.name.removesuffix(".json")
    return [*(sidecar.with_name(stem + extension) for extension in _DATA), sidecar]


def _remove(path: Path) -> bool:
    """Remove a file; tell whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DatasetError(
            f"{path}: of an earlier model, cannot be removed ({error.strerror or error}); "
            "check permissions, then run again"
        ) from error
    logger.info("%s: removed, an earlier model made it", path)
    return True
