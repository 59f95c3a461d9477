"""Posteriors of one image on the model's grid, and the way back; shared by the steps that segment."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..images.conform import Conform
from ..images.coverage import THIN_MM, THIN_SHARE, Coverage
from ..images.straightening import straightened
from ..images.volume import Volume
from .quality import SoftMeasures, normalised_entropy, soft_measures

if TYPE_CHECKING:
    import torch

    from ..segmentation import Model, Posterior

__all__ = ["Prediction", "predict", "slab_limits"]

Floats = npt.NDArray[np.float32]
_FEW = (
    "shows only {:.3g} mm along one axis: its outermost slices were repeated for the network; labels of "
    "so thin a scan are less sure than those of a whole head"
)


@attrs.frozen(kw_only=True, eq=False)
class Prediction:
    """What a model says about an image, on the working grid and on that of the image."""

    working: Floats
    """(X, Y, Z) the image on the working grid."""
    posterior: "Posterior"
    """Posterior of each label in a box of the working grid; elsewhere is background."""
    conform: Conform
    """Leads from the working grid to that of the image."""
    flipped: bool = False
    """Whether posteriors are averaged with those of the left-right mirror image."""
    header: Any = None
    """Of the image, whose code of the space outputs on the working grid keep."""
    coverage: Coverage | None = None
    """Which slices the image shows, if it is a slab; beyond them is background."""
    drawn_out: "Posterior | None" = None
    """Then, the posteriors of some voxels beyond them too, which the way back interpolates between."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went otherwise than asked for."""
        if self.coverage is None:
            return self.posterior.warnings
        return (_FEW.format(self.coverage.thickness_mm), *self.posterior.warnings)

    @property
    def values(self) -> Floats:
        """(K, x, y, z) posteriors in the box."""
        values: Floats = self.posterior.values.numpy()
        return values

    @property
    def volume(self) -> Volume:
        """The image on the working grid, as something to save on the grid of."""
        return Volume(
            data=self.working, affine=self.conform.affine, header=self.header, path="working"
        )

    def channels(self) -> npt.NDArray[np.int16]:
        """Most probable label of each voxel of the image."""
        source = self._source
        channels = self.conform.posterior_to_source(source.values.numpy(), source.start)
        self._clear(channels, self.conform, 0)
        return channels

    def working_channels(self) -> npt.NDArray[np.int16]:
        """Most probable label of each voxel of the working grid."""
        labels: npt.NDArray[np.int16] = self.posterior.labels().numpy()
        return labels

    def frame(self, channel: int, conform: Conform | None = None) -> Floats:
        """Posterior of one label on the grid of the image, or on one that another object leads to.

        Parameters
        ----------
        channel : int
            The label.
        conform : Conform, optional
            Leads from the working grid to another one, such as a part of the image.
        """
        chosen, outside = conform or self.conform, float(channel == 0)
        source = self._source
        values = chosen.float_to_source(
            source.values[channel].numpy(), source.start, outside=outside
        )
        self._clear(values, chosen, outside)
        return values

    def frames(self) -> Iterator[Floats]:
        """Give the posterior of one label after the other on the grid of the image."""
        return (self.frame(channel) for channel in range(len(self.values)))

    def working_frames(self) -> Iterator[Floats]:
        """Give the posterior of one label after the other on the working grid."""
        for channel, values in enumerate(self.values):
            yield self._whole(values, outside=float(channel == 0))

    def entropy(self) -> Floats:
        """Normalised entropy of the posteriors on the grid of the image."""
        source = self._source
        entropy = normalised_entropy(source.values.numpy())
        values = self.conform.float_to_source(entropy, source.start)
        self._clear(values, self.conform, 0)
        return values

    def working_entropy(self) -> Floats:
        """Normalised entropy of the posteriors on the working grid."""
        return self._whole(normalised_entropy(self.values), outside=0.0)

    def soft(self) -> SoftMeasures:
        """Sum up the posteriors."""
        return soft_measures(self.values)

    def structures(self) -> npt.NDArray[np.bool_]:
        """Voxels of the working grid that are more probably something than background."""
        inside: npt.NDArray[np.bool_] = self._whole(self.values[0], outside=1.0) < 0.5
        return inside

    @property
    def _source(self) -> "Posterior":
        """Posteriors that are interpolated on the way back."""
        return self.posterior if self.drawn_out is None else self.drawn_out

    def _clear(self, values: npt.NDArray[Any], conform: Conform, outside: float) -> None:
        """Set what the image does not show, on the grid that the conform object leads to."""
        if self.coverage is not None:
            self.coverage.clear(values, conform.source_affine, outside)

    def _whole(self, values: Floats, *, outside: float) -> Floats:
        """Array on the whole working grid of one on the box."""
        whole = np.full(self.posterior.shape, outside, dtype=np.float32)
        whole[self.posterior.box] = values
        return whole


def predict(
    model: "Model",
    volume: Volume,
    device: "torch.device",
    *,
    weights: Path,
    flip: bool = True,
    draws: int = 1,
    memory_mb: float | None = None,
) -> Prediction:
    """Bring an image to the model's grid and segment it there.

    Parameters
    ----------
    model : Model
        The model.
    volume : Volume
        The image.
    device : torch.device
        Where to compute; if it runs out of memory, tiles become smaller, then the CPU takes over.
    weights : Path
        File of the weights, for the message.
    flip : bool, default=True
        Average with the prediction on the mirror image; not where there is no left and right to
        exchange, as in a sagittal slice, or where a label of one side has no counterpart.
    draws : int, default=1
        Average over so many draws of small changes of the image.
    memory_mb : float, optional
        Memory that the network may take.

    Returns
    -------
    Prediction

    Raises
    ------
    ModelError
        If the posteriors are not numbers.
    """
    import torch

    conform = Conform.to_grid(volume, model.spacing_mm)
    # Beyond the field of view resampling fills with 0, which is to be the darkest value.
    working = conform.image(volume.data - volume.data.min())
    across = bool(np.abs(conform.affine[:3, 0]).argmax() == 0)
    flipped = flip and across and model.scheme.mirrors
    coverage, source = _slab(model, volume)
    shown, first = working, (0, 0, 0)
    if coverage is not None:
        extended = coverage.extended(source)
        laid, first = coverage.grid(conform, extended)
        shown = laid.image(extended.data - volume.data.min())
        del extended, source
    posterior = model.predict(
        torch.from_numpy(shown),
        device=device,
        flip=flipped,
        draws=draws,
        memory_mb=memory_mb,
    )
    if not bool(torch.isfinite(posterior.values).all()):
        raise ModelError(
            f"{weights}: gives posteriors for {volume.path} that are not numbers; "
            "the weights are damaged: copy the model again, or learn it again"
        )
    drawn_out = None
    if coverage is not None:
        posterior = posterior.part(first, conform.shape)
        exact, reaching = (
            torch.from_numpy(coverage.share(conform.affine, conform.shape, margin_mm=mm))
            for mm in (0.0, model.spacing_mm)
        )
        drawn_out, posterior = posterior.within(reaching), posterior.within(exact)
    return Prediction(
        working=working,
        posterior=posterior,
        conform=conform,
        flipped=flipped,
        header=volume.header,
        coverage=coverage,
        drawn_out=drawn_out,
    )


def _slab(model: "Model", volume: Volume) -> tuple[Coverage | None, Volume]:
    """Find out whether an image is a slab; give the image, or what it is along the slab, too."""
    limits = slab_limits(model)
    if limits is None:
        return None, volume
    coverage = Coverage.of(volume, **limits)
    if coverage is not None or not limits["repeat_mm"]:
        return coverage, volume
    straight = straightened(volume, thin_mm=limits["thin_mm"])
    turned = None if straight is None else Coverage.of(straight, **limits)
    if straight is None or turned is None:
        return None, volume
    return attrs.evolve(turned, turned=True), straight


def slab_limits(model: "Model") -> dict[str, float] | None:
    """Which scans count as slabs for a model, and how far their outermost slices are repeated.

    A model that was trained on slabs knows them: for it, only scans of less than half of what it
    was trained on do.

    Returns
    -------
    dict or None
        Keyword arguments of :meth:`~l2s_pydra.images.coverage.Coverage.of`; None for 2-D models.
    """
    if model.segmenter.config.ndim != 3:
        return None
    grid = model.config.get("grid_shape")
    known = THIN_SHARE * min(grid) * model.spacing_mm if grid else THIN_MM
    return {
        "repeat_mm": model.learn_config.synthesis.coverage_repeat_mm,
        "thin_mm": min(THIN_MM, known),
    }
