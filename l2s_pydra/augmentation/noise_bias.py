r"""Bias fields of three scales with learned exponents, and noise of a learned level.

.. math:: \tilde x = x \cdot f_2^{c_1} \cdot f_4^{c_2} \cdot f_8^{c_3} + \sigma n,
          \qquad c_i \in (0, 1)

where :math:`f_k` is a cubic B-spline through a grid of :math:`k` control points per axis, drawn
from U(0.5, 2).

The three exponents are not identifiable one by one: fields of neighbouring scales explain each
other, and images made with (1, 0, 0) come back as something like (.13, .19, .54). The strength of
the whole field is; :meth:`NoiseBias.describe` reports it as ``log_bias_std``.

Hu et al., Learn2Synth, ICCV 2025, section 3.2 (parametric augmentation).
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ._fields import smooth_field
from .base import Augmentation, SyntheticSample, bounded, unbounded, uniform

__all__ = ["NoiseBias", "build"]

_HIGH = 1.0
_POINTS = (2, 4, 8)
_FIELD_RANGE = (0.5, 2.0)


class NoiseBias(Augmentation):
    r"""Multiplies by smooth fields and adds noise.

    Parameters
    ----------
    sigma : float, default=0.1
        Starting :math:`\sigma`, in (0, 1).
    exponents : three floats, default=(0.5, 0.5, 0.5)
        Starting :math:`c`, in (0, 1).

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    def __init__(
        self, sigma: float = 0.1, exponents: tuple[float, float, float] = (0.5, 0.5, 0.5)
    ) -> None:
        super().__init__()
        self.sigma_raw = nn.Parameter(unbounded(sigma, 0, _HIGH, name="sigma"))
        self.exponents_raw = nn.Parameter(
            unbounded(torch.tensor(exponents), 0, 1, name="exponents")
        )

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the noise, () tensor."""
        return bounded(self.sigma_raw, 0, _HIGH)

    @property
    def exponents(self) -> Tensor:
        """Exponents of the fields of 2, 4 and 8 points, (3,) tensor."""
        return bounded(self.exponents_raw, 0, 1)

    def forward(self, sample: SyntheticSample) -> Tensor:
        """Augment a batch; see :meth:`Augmentation.forward`."""
        size = sample.image.shape[2:]
        low, high = _FIELD_RANGE
        log_field = torch.zeros_like(sample.image)
        for exponent, k in zip(self.exponents, _POINTS, strict=True):
            points = low + (high - low) * uniform(sample, k, [k] * len(size))
            log_field = log_field + exponent * smooth_field(points, size).log()
        image = sample.image * log_field.exp()
        return sample.normalise(image + self.sigma * sample.noise())

    @torch.no_grad()
    def describe(self) -> dict[str, float]:
        """Return ``sigma``, ``exponent_2``, ``exponent_4``, ``exponent_8``, ``log_bias_std``.

        The last is the root of the summed squares of the exponents times the standard deviation
        of the logarithm of a control point.
        """
        exponents = [float(c) for c in self.exponents]
        named = {f"exponent_{k}": c for k, c in zip(_POINTS, exponents, strict=True)}
        strength = math.hypot(*exponents) * _log_uniform_std(*_FIELD_RANGE)
        return {"sigma": float(self.sigma), **named, "log_bias_std": strength}

    @torch.no_grad()
    def restore(self, values: Mapping[str, float]) -> None:
        """Set theta; see :meth:`Augmentation.restore`. The strength follows from the exponents."""
        exponents = {
            f"exponent_{k}": (self.exponents_raw[i], 0.0, 1.0) for i, k in enumerate(_POINTS)
        }
        self._place(values, {"sigma": (self.sigma_raw, 0.0, _HIGH), **exponents})


def _log_uniform_std(low: float, high: float) -> float:
    """Return the standard deviation of log u, u ~ U(low, high).

    >>> round(_log_uniform_std(0.5, 2), 3)
    0.382
    """

    def moments(u: float) -> tuple[float, float]:
        log = math.log(u)
        return u * (log - 1), u * (log * log - 2 * log + 2)

    (first_low, second_low), (first_high, second_high) = moments(low), moments(high)
    mean = (first_high - first_low) / (high - low)
    return math.sqrt((second_high - second_low) / (high - low) - mean**2)


def build(
    *,
    ndim: int,
    group_names: Sequence[str],
    sigma: float = 0.1,
    exponents: tuple[float, float, float] = (0.5, 0.5, 0.5),
) -> NoiseBias:
    """Build the augmentation; see :func:`l2s_pydra.augmentation.build_augmentation`."""
    return NoiseBias(sigma, exponents)
