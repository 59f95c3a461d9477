"""Posteriors of one image on the model's grid, and the way back; shared by the steps that segment."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..images.conform import Conform
from ..images.volume import Volume
from .quality import SoftMeasures, normalised_entropy, soft_measures

if TYPE_CHECKING:
    import torch

    from ..segmentation import Model

__all__ = ["Prediction", "predict"]

Floats = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True, eq=False)
class Prediction:
    """What a model says about an image, on the working grid and on that of the image."""

    working: Floats
    """(X, Y, Z) the image on the working grid."""
    posterior: Floats
    """(K, X, Y, Z) posterior of each label."""
    conform: Conform
    """Leads from the working grid to that of the image."""
    warnings: tuple[str, ...] = ()
    """What went otherwise than asked for."""

    @property
    def volume(self) -> Volume:
        """The image on the working grid, as something to save on the grid of."""
        return Volume(data=self.working, affine=self.conform.affine, header=None, path="working")

    def channels(self) -> npt.NDArray[np.int16]:
        """Most probable label of each voxel of the image."""
        return self.conform.posterior_to_source(self.posterior)

    def working_channels(self) -> npt.NDArray[np.int16]:
        """Most probable label of each voxel of the working grid."""
        winners: npt.NDArray[np.int16] = self.posterior.argmax(axis=0).astype(np.int16)
        return winners

    def frames(self) -> Iterator[Floats]:
        """Give the posterior of one label after the other on the grid of the image."""
        return (self.conform.float_to_source(frame) for frame in self.posterior)

    def working_frames(self) -> Iterator[Floats]:
        """Give the posterior of one label after the other on the working grid."""
        return iter(self.posterior)

    def working_entropy(self) -> Floats:
        """Normalised entropy of the posteriors on the working grid."""
        return normalised_entropy(self.posterior)

    def entropy(self) -> Floats:
        """Normalised entropy of the posteriors on the grid of the image."""
        return self.conform.float_to_source(self.working_entropy())

    def soft(self) -> SoftMeasures:
        """Sum up the posteriors."""
        return soft_measures(self.posterior)

    def structures(self) -> npt.NDArray[np.bool_]:
        """Voxels of the working grid that are more probably something than background."""
        inside: npt.NDArray[np.bool_] = self.posterior[0] < 0.5
        return inside


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
    model: "Model", working: Floats, conform: Conform, device: "torch.device"
) -> tuple[Floats, tuple[str, ...]]:
    import torch

    # A sagittal slice has no left and right to exchange
    flip = bool(np.abs(conform.affine[:3, 0]).argmax() == 0)
    tensor = torch.from_numpy(working)
    try:
        return model.posteriors(tensor, device=device, flip=flip).numpy(), ()
    except torch.OutOfMemoryError:
        warning = f"does not fit the memory of {device}; segmented on the CPU"
    return model.posteriors(tensor, device="cpu", flip=flip).numpy(), (warning,)
