r"""Additive Gaussian noise whose standard deviation is drawn from a learned range.

.. math:: \tilde x = x + \sigma n, \qquad \sigma \sim U(\sigma_{min}, \sigma_{max})

The ends are ordered by construction: the lower one is a learned share of the upper one.

Hu et al., Learn2Synth, ICCV 2025, section 3.2 (parametric augmentation, the range variant).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .base import Augmentation, SyntheticSample, bounded, unbounded, uniform

__all__ = ["NoiseRange", "build"]

_HIGH = 1.0


class NoiseRange(Augmentation):
    r"""Adds noise of :math:`\sigma \sim U(\sigma_{min}, \sigma_{max})`, drawn for each image.

    Parameters
    ----------
    sigma_min, sigma_max : float, default=(0.05, 0.2)
        Starting values, in units of the image's range; 0 < ``sigma_min`` < ``sigma_max`` < 1.

    Raises
    ------
    ConfigError
        If the values are out of range or not ordered.
    """

    def __init__(self, sigma_min: float = 0.05, sigma_max: float = 0.2) -> None:
        super().__init__()
        self.max_raw = nn.Parameter(unbounded(sigma_max, 0, _HIGH, name="sigma_max"))
        self.min_raw = nn.Parameter(unbounded(sigma_min, 0, sigma_max, name="sigma_min"))

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """Lower and upper end, () tensors."""
        high = bounded(self.max_raw, 0, _HIGH)
        return high * bounded(self.min_raw, 0, 1), high

    def forward(self, sample: SyntheticSample) -> Tensor:
        """Augment a batch; see :meth:`Augmentation.forward`."""
        low, high = self.range
        share = uniform(sample, 0, [1] * (sample.image.ndim - 1))
        sigma = low + (high - low) * share
        return sample.normalise(sample.image + sigma * sample.noise())

    @torch.no_grad()
    def describe(self) -> dict[str, float]:
        """Return ``sigma_min`` and ``sigma_max``."""
        low, high = self.range
        return {"sigma_min": float(low), "sigma_max": float(high)}

    @torch.no_grad()
    def restore(self, values: Mapping[str, float]) -> None:
        """Set theta; see :meth:`Augmentation.restore`."""
        places = {"sigma_max": (self.max_raw, 0.0, _HIGH), "sigma_min": (self.min_raw, 0.0, 1.0)}
        given = {name: values[name] for name in places if name in values}
        if given:
            low, high = {**self.describe(), **given}.values()
            given = {"sigma_max": high, "sigma_min": low / high if high > 0 else 0.0}
        self._place(given or values, places)


def build(
    *, ndim: int, group_names: Sequence[str], sigma_min: float = 0.05, sigma_max: float = 0.2
) -> NoiseRange:
    """Build the augmentation; see :func:`l2s_pydra.augmentation.build_augmentation`."""
    return NoiseRange(sigma_min, sigma_max)
