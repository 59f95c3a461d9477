"""Posteriors of one image on the model's grid, and the way back; shared by the steps that segment."""

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..images.conform import Conform
from ..images.volume import Volume

if TYPE_CHECKING:
    import torch

    from ..segmentation import Model

__all__ = ["Prediction", "predict"]


@attrs.frozen(kw_only=True, eq=False)
class Prediction:
    """What a model says about an image, on the working grid."""

    working: npt.NDArray[np.float32]
    """(X, Y, Z) the image."""
    posterior: npt.NDArray[np.float32]
    """(K, X, Y, Z) posterior of each label."""
    conform: Conform
    """Leads from the working grid to that of the image."""
    warnings: tuple[str, ...] = ()
    """What went otherwise than asked for."""


def predict(model: "Model", volume: Volume, device: "torch.device", *, weights: Path) -> Prediction:
    """Bring an image to the model's grid and segment it there.

    Parameters
    ----------
    model : Model
        The model.
    volume : Volume
        The image.
    device : torch.device
        Where to compute; if it runs out of memory, the CPU takes over.
    weights : Path
        File of the weights, for the message.

    Returns
    -------
    Prediction

    Raises
    ------
    ModelError
        If the posteriors are not numbers.
    """
    conform = Conform.to_grid(volume, model.spacing_mm)
    # Beyond the field of view resampling fills with 0, which is to be the darkest value.
    working = conform.image(volume.data - volume.data.min())
    posterior, warnings = _posterior(model, working, conform, device)
    if not np.isfinite(posterior).all():
        raise ModelError(
            f"{weights}: gives posteriors for {volume.path} that are not numbers; "
            "the weights are damaged: copy the model again, or learn it again"
        )
    return Prediction(working=working, posterior=posterior, conform=conform, warnings=warnings)


def _posterior(
    model: "Model", working: npt.NDArray[np.float32], conform: Conform, device: "torch.device"
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    import torch

    # A sagittal slice has no left and right to exchange
    flip = bool(np.abs(conform.affine[:3, 0]).argmax() == 0)
    tensor = torch.from_numpy(working)
    try:
        return model.posteriors(tensor, device=device, flip=flip).numpy(), ()
    except torch.OutOfMemoryError:
        warning = f"does not fit the memory of {device}; segmented on the CPU"
    return model.posteriors(tensor, device="cpu", flip=flip).numpy(), (warning,)
