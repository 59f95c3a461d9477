"""Learn2Synth brain segmentation as a BIDS App, Pydra tasks and Nipype interfaces."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .steps.api import LoadedModel

__all__ = ["__version__", "load_model"]

__version__ = "0.1.0"


def load_model(path: str | Path) -> "LoadedModel":
    """Load a model folder; see :func:`l2s_pydra.steps.api.load_model`.

    Parameters
    ----------
    path : str or Path
        The folder, ``models/model-<name>`` in the output of a training.

    Returns
    -------
    LoadedModel
        ``load_model(path).segment(image)`` segments a path, a nibabel image, or an array with its
        affine.
    """
    # torch, which this imports, is not needed to ask for the version
    from .steps.api import load_model

    return load_model(path)
