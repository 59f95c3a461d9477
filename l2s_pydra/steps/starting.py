"""Weights of a finished model, for a training to start from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..config import LearnConfig, SegmenterConfig
from ..errors import ModelError
from ..labels import LabelScheme

if TYPE_CHECKING:
    from ..segmentation import Model

__all__ = ["start_record", "start_weights"]


def start_weights(folder: Path, scheme: LabelScheme, config: LearnConfig) -> "Model":
    """Load a model to start from, and check that its weights mean the same in the new one.

    Parameters
    ----------
    folder : Path
        Model folder.
    scheme : LabelScheme
        What the new model will write.
    config : LearnConfig
        Settings of the new model. The voxel size may be another one.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If its labels or its network are others, or the folder is broken.
    """
    from ..segmentation import Model

    model = Model.load(folder)
    theirs, ours = ({(x.index, x.name) for x in each.labels} for each in (model.scheme, scheme))
    if theirs != ours:
        index, name = min(theirs ^ ours)
        who = "it" if (index, name) in theirs else "the new model"
        raise ModelError(
            f"{folder}: writes other labels than the new model (only {who} has {name!r}, {index}); "
            "start from a model of the same labels"
        )
    network = model.learn_config.segmenter
    for field in attrs.fields(SegmenterConfig):
        old, new = (getattr(each, field.name) for each in (network, config.segmenter))
        if old != new:
            raise ModelError(
                f"{folder}: its network has segmenter.{field.name} {old!r}, not {new!r}; set "
                f"segmenter.{field.name}={old}, or start from another model"
            )
    return model


def start_record(model: "Model") -> dict[str, Any]:
    """Say which model it was, for the new one's record."""
    return {"name": model.name, "sha256": model.sha256, "spacing_mm": model.spacing_mm}
