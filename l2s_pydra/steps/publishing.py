"""Staged trees and models to their places in a derivative data set."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..bids.description import describe_dataset
from ..bids.publishing import publish
from ..bids.uses import model_facts
from .outputs import bidsignore

__all__ = ["publish_study", "publish_tree"]


def publish_tree(tree: Path, output_dir: Path) -> list[Path]:
    """Copy a staged tree into a derivative data set, file by file.

    A file appears at once or not at all, equal ones stay untouched, deleted ones come back.

    Parameters
    ----------
    tree : Path
        Staged tree, as :func:`~l2s_pydra.steps.segment.segment` leaves it.
    output_dir : Path
        Root of the derivative; made if need be.

    Returns
    -------
    list of Path
        Every file of the tree at its place, sorted.

    Raises
    ------
    L2SError
        If there is no tree, or a file cannot be written.
    """
    done = publish(tree, output_dir)
    return sorted((*done.written, *done.unchanged))


def publish_study(
    trees: Iterable[Path],
    output_dir: Path,
    *,
    model: Path,
    bids_dir: Path,
    images: Sequence[Mapping[str, str]],
) -> list[Path]:
    """Copy the trees of a study and its model into a derivative data set, and describe that.

    Parameters
    ----------
    trees : iterable of Path
        Staged trees.
    output_dir : Path
        Root of the derivative; made if need be.
    model : Path
        The model folder; it goes to ``models``, where the sidecars look for it.
    bids_dir : Path
        Root of the raw data set.
    images : sequence of mappings
        Entities and ``suffix`` of the images segmented.

    Returns
    -------
    list of Path
        Every file at its place but those of the model, sorted.

    Raises
    ------
    L2SError
        If a tree or the model is not there, or a file cannot be written.
    """
    from ..segmentation import Model

    model, output_dir = Path(model), Path(output_dir)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(model, Path(folder) / "models" / model.name)
        publish(folder, output_dir)
    files = [path for tree in trees for path in publish_tree(Path(tree), output_dir)]
    # Last, as the methods text tells of the images that are there.
    files += describe_dataset(
        output_dir,
        bids_dir=bids_dir,
        output_dir=output_dir,
        images=images,
        bidsignore=bidsignore(),
        models=[model_facts(model, Model.load(model).sha256)],
    )
    return sorted(files)
