r"""Additive Gaussian noise of a learned standard deviation.

.. math:: \tilde x = x + \sigma n, \qquad n \sim N(0, I)

Hu et al., Learn2Synth, ICCV 2025, section 3.2 (parametric augmentation).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .base import Augmentation, SyntheticSample, bounded, unbounded

__all__ = ["Noise", "build"]

_HIGH = 1.0


class Noise(Augmentation):
    r"""Adds noise of one learned :math:`\sigma`, in (0, 1).

    Parameters
    ----------
    sigma : float, default=0.1
        Starting value, in units of the image's range.

    Raises
    ------
    ConfigError
        If ``sigma`` is out of range.
    """

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        self.sigma_raw = nn.Parameter(unbounded(sigma, 0, _HIGH, name="sigma"))

    @property
    def sigma(self) -> Tensor:
        """Standard deviation, () tensor."""
        return bounded(self.sigma_raw, 0, _HIGH)

    def forward(self, sample: SyntheticSample) -> Tensor:
        """Augment a batch; see :meth:`Augmentation.forward`."""
        return sample.normalise(sample.image + self.sigma * sample.noise())

    @torch.no_grad()
    def describe(self) -> dict[str, float]:
        """Return ``sigma``."""
        return {"sigma": float(self.sigma)}

    @torch.no_grad()
    def restore(self, values: Mapping[str, float]) -> None:
        """Set theta; see :meth:`Augmentation.restore`."""
        self._place(values, {"sigma": (self.sigma_raw, 0, _HIGH)})


def build(*, ndim: int, group_names: Sequence[str], sigma: float = 0.1) -> Noise:
    """Build the augmentation; see :func:`l2s_pydra.augmentation.build_augmentation`."""
    return Noise(sigma)
