"""What an earlier model wrote for an image, beside the outputs of a later one."""

import logging
from collections.abc import Iterator, Mapping
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


def remove_leftovers(
    *,
    tree: Path,
    output_dir: Path,
    entities: Mapping[str, str],
    source: str,
    segmentation: str,
) -> list[Path]:
    """Remove outputs of an image that another model wrote under the same segmentation.

    Posteriors, entropy or outputs on the network's grid stay in the output folder when a later run
    does not ask for them. If its model is another one, they would contradict the new label map.
    Only files whose sidecar names the image as its source, and another model, are removed, with
    their sidecars and label tables; masks, whose names do not tell the segmentation, if theirs is the
    model of other files that are removed.

    Parameters
    ----------
    tree : Path
        Staged tree of the image, which was published.
    output_dir : Path
        Root of the derivative.
    entities : mapping
        Entities and ``suffix`` of the image.
    source : str
        Path of the image below the raw data set.
    segmentation : str
        ``seg`` entity of the outputs.

    Returns
    -------
    list of Path
        What was removed.

    Raises
    ------
    DatasetError
        If a file cannot be removed.
    """
    dseg = derivative_path(entities, IMAGE_OUTPUTS["dseg_json"], segmentation=segmentation)
    current = _read(Path(tree) / dseg).get("ModelSHA256")
    if not current:
        return []
    rows = [row for row in IMAGE_OUTPUTS.values() if row.extension == ".json"]
    former: set[str] = set()
    removed: list[Path] = []
    for row in sorted(rows, key=lambda row: not row.segmented):
        for sidecar in _sidecars(row, Path(output_dir), entities, segmentation):
            written = _read(sidecar)
            model = str(written.get("ModelSHA256", ""))
            mine = f"bids:raw:{source}" in (written.get("Sources") or ())
            staged = (Path(tree) / sidecar.relative_to(output_dir)).exists()
            another = model not in ("", current) and (row.segmented or model in former)
            if mine and another and not staged:
                former.add(model)
                removed += _remove(sidecar)
    return removed


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


def _remove(sidecar: Path) -> list[Path]:
    """Remove a sidecar and what it belongs to."""
    stem = sidecar.name.removesuffix(".json")
    paths = [*(sidecar.with_name(stem + extension) for extension in _DATA), sidecar]
    there = [path for path in paths if path.exists() or path.is_symlink()]
    try:
        for path in there:
            path.unlink()
    except OSError as error:
        raise DatasetError(
            f"{sidecar}: of an earlier model, cannot be removed ({error.strerror or error}); "
            "check permissions, then run again"
        ) from error
    logger.info("%s: removed, an earlier model made it", sidecar.with_name(stem))
    return there
