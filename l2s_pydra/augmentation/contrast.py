r"""Learned contrast: the generator's own Gaussian mixture, with bias field and noise.

.. math::
    \mu_g = a_g + b_g \xi_g, \qquad
    z_v = \mu_{g(v)} + s_{g(v)} n_v, \qquad
    \tilde x = \mathrm{finish}(z)\, e^{\beta f} + \sigma n'

for the groups :math:`g` of labels that share their intensities, over the voxels :math:`v` of the
fine grid; :math:`\xi_g, n_v, n'` are standard normal and :math:`f` is a smooth field of unit
variance. Outside (group 0) :math:`z` is exactly 0.

The mixture is that of Billot et al., SynthSeg, Medical Image Analysis 2023, equation 3, whose
ranges are here learned in the way of Hu et al., Learn2Synth, ICCV 2025.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ._fields import smooth_field, spline_gain
from .base import Augmentation, Place, SyntheticSample, bounded, normal, unbounded

__all__ = ["Contrast", "build"]

_LOG = logging.getLogger(__name__)

# Upper bounds, in units of the image's range (bias: of its logarithm).
_MEAN = (0.0, 1.0)
_VARIATION = (0.0, 0.5)
_SPREAD = (0.0, 0.5)
_BIAS = (0.0, 1.0)
_NOISE = (0.0, 0.5)
# Moment matching leaves theta room to move: nothing starts closer to a bound than this.
_MARGIN = 0.01
# Labelled scans of one protocol differ by about this much in their group means.
_MATCHED_VARIATION = 0.05


class Contrast(Augmentation):
    r"""Draws the intensities of each group from a learned distribution.

    Parameters
    ----------
    group_names : sequence of str
        Names of the groups; the first is the outside.
    mean : float, default=0.5
        Starting :math:`a`, in (0, 1).
    variation : float, default=0.25
        Starting :math:`b`: standard deviation of a group's mean between images, in (0, 0.5).
    spread : float, default=0.05
        Starting :math:`s`: standard deviation of a group's working voxels within an image, in
        (0, 0.5). On the fine grid it is larger by the root of the number of voxels that are
        pooled into one.
    bias : float, default=0.1
        Starting :math:`\beta`: standard deviation of the log bias field, in (0, 1).
    noise : float, default=0.02
        Starting :math:`\sigma`, in (0, 0.5).
    bias_points : int, default=4
        Control points of the bias field per axis.

    Raises
    ------
    ConfigError
        If a starting value is out of range, or there is no group beside the outside.
    """

    replaces_intensities: ClassVar[bool] = True

    def __init__(
        self,
        group_names: Sequence[str],
        *,
        mean: float = 0.5,
        variation: float = 0.25,
        spread: float = 0.05,
        bias: float = 0.1,
        noise: float = 0.02,
        bias_points: int = 4,
    ) -> None:
        super().__init__()
        if len(group_names) < 2:
            raise ConfigError("contrast needs a group beside the outside; check the label tables")
        self.group_names = tuple(group_names)
        self.bias_points = bias_points
        count = len(group_names) - 1

        def parameter(name: str, value: float, bounds: tuple[float, float]) -> nn.Parameter:
            return nn.Parameter(unbounded(value, *bounds, name=name).repeat(count))

        self.mean_raw = parameter("mean", mean, _MEAN)
        self.variation_raw = parameter("variation", variation, _VARIATION)
        self.spread_raw = parameter("spread", spread, _SPREAD)
        self.bias_raw = nn.Parameter(unbounded(bias, *_BIAS, name="bias"))
        self.noise_raw = nn.Parameter(unbounded(noise, *_NOISE, name="noise"))

    @property
    def mean(self) -> Tensor:
        """Mean of each group over images, (G - 1,) tensor without the outside."""
        return bounded(self.mean_raw, *_MEAN)

    @property
    def variation(self) -> Tensor:
        """Standard deviation of each group's mean between images, (G - 1,) tensor."""
        return bounded(self.variation_raw, *_VARIATION)

    @property
    def spread(self) -> Tensor:
        """Standard deviation of the working voxels of each group in an image, (G - 1,) tensor."""
        return bounded(self.spread_raw, *_SPREAD)

    @property
    def bias(self) -> Tensor:
        """Standard deviation of the log bias field, () tensor."""
        return bounded(self.bias_raw, *_BIAS)

    @property
    def noise(self) -> Tensor:
        """Standard deviation of the noise, () tensor."""
        return bounded(self.noise_raw, *_NOISE)

    def forward(self, sample: SyntheticSample) -> Tensor:
        """Augment a batch; see :meth:`Augmentation.forward`."""
        fine = _mixture(sample.groups, *self._moments(sample), sample.noise(fine=True))
        image = sample.finish(fine)
        image = image * (self.bias * self._unit_field(sample)).exp()
        return sample.normalise(image + self.noise * sample.noise())

    def _moments(self, sample: SyntheticSample) -> tuple[Tensor, Tensor]:
        """Mean and fine-grid standard deviation of each group, (B, G) tensors."""
        xi = normal(sample, 0, [len(self.group_names) - 1])
        means = self.mean + self.variation * xi
        fine, working = sample.groups[0].numel(), sample.image[0].numel()
        stds = (self.spread * math.sqrt(fine / working)).expand_as(means)
        outside = means.new_zeros(len(means), 1)
        return torch.cat([outside, means], dim=1), torch.cat([outside, stds], dim=1)

    def _unit_field(self, sample: SyntheticSample) -> Tensor:
        size, k = sample.image.shape[2:], self.bias_points
        points = normal(sample, 1, [k] * len(size))
        return smooth_field(points, size) / spline_gain(size, k)

    @torch.no_grad()
    def describe(self) -> dict[str, float]:
        """Return ``mean/``, ``variation/`` and ``spread/`` of each group, ``bias`` and ``noise``."""
        described = {
            f"{what}/{name}": float(value)
            for what in ("mean", "variation", "spread")
            for name, value in zip(self.group_names[1:], getattr(self, what), strict=True)
        }
        return {**described, "bias": float(self.bias), "noise": float(self.noise)}

    @torch.no_grad()
    def start(self, statistics: Mapping[str, tuple[float, ...]]) -> None:
        """Match the mean and the grain of each group; see :meth:`Augmentation.start`.

        What neighbouring voxels do not share is spread and noise; half of the least grainy group's
        is taken for noise, and taken off the spreads. What they share is put down to the bias
        field, by the median over groups. Groups that are not in the statistics keep their wide
        start.
        """
        grains = {name: values[-1] for name, values in statistics.items() if len(values) > 2}
        if grains:
            self.noise_raw.copy_(_start(min(grains.values()) / 2, _NOISE))
            shared = [
                math.sqrt(max(0.0, std**2 - grain**2)) / max(mean, 0.1)
                for mean, std, grain in (statistics[name] for name in grains)
            ]
            self.bias_raw.copy_(_start(sorted(shared)[len(shared) // 2], _BIAS))
        for i, name in enumerate(self.group_names[1:]):
            if name not in statistics:
                _LOG.info("group %s has no statistics; its intensities start wide", name)
                continue
            mean, grain = statistics[name][0], statistics[name][-1]
            spread = math.sqrt(max(grain**2 - float(self.noise) ** 2, (grain / 2) ** 2))
            self.mean_raw[i] = _start(mean, _MEAN)
            self.spread_raw[i] = _start(spread, _SPREAD)
            self.variation_raw[i] = unbounded(_MATCHED_VARIATION, *_VARIATION)

    @torch.no_grad()
    def restore(self, values: Mapping[str, float]) -> None:
        """Set theta; see :meth:`Augmentation.restore`."""
        quantities = {
            "mean": (self.mean_raw, *_MEAN),
            "variation": (self.variation_raw, *_VARIATION),
            "spread": (self.spread_raw, *_SPREAD),
        }
        places: dict[str, Place] = {
            f"{what}/{name}": (raw[i], low, high)
            for what, (raw, low, high) in quantities.items()
            for i, name in enumerate(self.group_names[1:])
        }
        places |= {"bias": (self.bias_raw, *_BIAS), "noise": (self.noise_raw, *_NOISE)}
        if not any(name in places and "/" in name for name in values):
            raise ConfigError(
                f"no group of the label maps ({', '.join(self.group_names[1:])}) has a learned value; "
                "use the label tables of the run that learned them"
            )
        self._place(values, places)


def _start(value: float, bounds: tuple[float, float]) -> Tensor:
    """Unconstrained parameter of a value, moved inside the bounds if need be."""
    low, high = bounds
    margin = _MARGIN * (high - low)
    return unbounded(min(max(value, low + margin), high - margin), low, high)


def _mixture(groups: Tensor, means: Tensor, stds: Tensor, noise: Tensor) -> Tensor:
    """Gaussian mixture: (B, *F) groups, (B, G) means and stds, (B, 1, *F) noise to (B, 1, *F)."""
    batch, count = means.shape
    first = count * torch.arange(batch, dtype=torch.int32, device=groups.device)
    index = (groups.flatten(1).to(torch.int32) + first[:, None]).flatten()
    mean, std = (table.flatten().index_select(0, index) for table in (means, stds))
    return torch.addcmul(mean, std, noise.flatten()).view_as(noise)


def build(
    *,
    ndim: int,
    group_names: Sequence[str],
    mean: float = 0.5,
    variation: float = 0.25,
    spread: float = 0.05,
    bias: float = 0.1,
    noise: float = 0.02,
    bias_points: int = 4,
) -> Contrast:
    """Build the augmentation; see :func:`l2s_pydra.augmentation.build_augmentation`."""
    return Contrast(
        group_names,
        mean=mean,
        variation=variation,
        spread=spread,
        bias=bias,
        noise=noise,
        bias_points=bias_points,
    )
