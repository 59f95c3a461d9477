r"""Learned acquisition: contrast curve, sharpness and noise of the scanner.

.. math:: \tilde x = G_w * x^\gamma + \sigma n, \qquad
          \log \gamma \sim N(m, s^2), \qquad \log w \sim N(\log b, c^2)

for each image, with a Gaussian :math:`G_w` of standard deviation :math:`w` voxels, the same along
all axes, and :math:`n` standard normal. The finished image is what enters: it keeps its deformation,
intensities, bias field and resolution.

The Gaussian is that of discrete scale space (Lindeberg, IEEE Transactions on Pattern Analysis and
Machine Intelligence 1990): the modified Bessel functions :math:`e^{-w^2} I_k(w^2)`. Its variance is
:math:`w^2` exactly, for widths far below one voxel too, where samples of the Gaussian curve would
give an image, and a derivative, that does not depend on :math:`w`. With the image mirrored at its
border, it is diagonal in the discrete cosine transform: along an axis of N voxels the factor of
frequency :math:`k` is :math:`\exp(w^2 (\cos(\pi k / N) - 1))`.

What can be learned of it has limits.

- Blur and noise are separate in the images, as noise comes after the blur: one shapes the spectrum
  of the anatomy, the other adds a floor. But a segmenter feels both as edges that are harder to
  see, so that a hypergradient may trade one for the other, and the blur that is learned comes on
  top of the slices and the interpolation of the generator.
- Gamma and contrast are not separate where the generator draws the mean of each group from wide
  ranges: a monotone curve makes such contrasts into others of their kind, and :math:`m` may drift
  without effect. It has a meaning where contrasts are fixed or narrow. Scale and offset are nobody's:
  the normalisation takes them away.
- The spreads :math:`s` and :math:`c` show in no single image. Their gradient is that of the median
  times a random number of mean 0, and only many images decide them.

After Hu et al., Learn2Synth, ICCV 2025 (learning of the generator's parameters), with the ranges of
Billot et al., SynthSeg, Medical Image Analysis 2023.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Augmentation, SyntheticSample, bounded, normal, unbounded

__all__ = ["Acquisition", "build"]

_LOG_GAMMA = (-math.log(4), math.log(4))
_GAMMA_SPREAD = (0.0, 0.5)
_BLUR = (0.0, 4.0)
_BLUR_SPREAD = (0.0, 1.0)
_SIGMA = (0.0, 0.5)
# Keeps the slope of small powers finite at 0, as in the generator.
_OFFSET = 1e-2


class Acquisition(Augmentation):
    r"""Draws gamma and blur from learned distributions, and adds noise of a learned level.

    Parameters
    ----------
    gamma : float, default=1
        Starting median :math:`e^m`, in (1/4, 4).
    gamma_spread : float, default=0.1
        Starting :math:`s`: standard deviation of :math:`\log \gamma` between images, in (0, 0.5).
    blur_voxels : float, default=0.5
        Starting median :math:`b`: standard deviation of the Gaussian in working voxels, in (0, 4).
    blur_spread : float, default=0.3
        Starting :math:`c`: standard deviation of :math:`\log w` between images, in (0, 1).
    sigma : float, default=0.05
        Starting :math:`\sigma`, in units of the image's range, in (0, 0.5).

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        gamma_spread: float = 0.1,
        blur_voxels: float = 0.5,
        blur_spread: float = 0.3,
        sigma: float = 0.05,
    ) -> None:
        super().__init__()

        def parameter(name: str, value: float, bounds: tuple[float, float]) -> nn.Parameter:
            return nn.Parameter(unbounded(value, *bounds, name=name))

        low, high = _LOG_GAMMA
        log_gamma = math.log(gamma) if gamma > 0 else -math.inf
        self.log_gamma_raw = parameter("log of gamma", log_gamma, (low, high))
        self.gamma_spread_raw = parameter("gamma_spread", gamma_spread, _GAMMA_SPREAD)
        self.blur_raw = parameter("blur_voxels", blur_voxels, _BLUR)
        self.blur_spread_raw = parameter("blur_spread", blur_spread, _BLUR_SPREAD)
        self.sigma_raw = parameter("sigma", sigma, _SIGMA)

    @property
    def log_gamma(self) -> Tensor:
        """Mean of the logarithm of gamma, () tensor."""
        return bounded(self.log_gamma_raw, *_LOG_GAMMA)

    @property
    def gamma_spread(self) -> Tensor:
        """Standard deviation of the logarithm of gamma, () tensor."""
        return bounded(self.gamma_spread_raw, *_GAMMA_SPREAD)

    @property
    def blur_voxels(self) -> Tensor:
        """Median of the width of the Gaussian, () tensor."""
        return bounded(self.blur_raw, *_BLUR)

    @property
    def blur_spread(self) -> Tensor:
        """Standard deviation of the logarithm of the width, () tensor."""
        return bounded(self.blur_spread_raw, *_BLUR_SPREAD)

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the noise, () tensor."""
        return bounded(self.sigma_raw, *_SIGMA)

    def forward(self, sample: SyntheticSample) -> Tensor:
        """Augment a batch; see :meth:`Augmentation.forward`."""
        gammas, widths = self.draw(sample)
        image = _blurred(_power(sample.image, gammas), widths)
        return sample.normalise(image + self.sigma * sample.noise())

    def draw(self, sample: SyntheticSample) -> tuple[Tensor, Tensor]:
        """Gamma and width of the blur in voxels of each image: (B,) tensors."""
        xi = normal(sample, 0, [2])
        gammas = (self.log_gamma + self.gamma_spread * xi[:, 0]).exp()
        widths = self.blur_voxels * (self.blur_spread * xi[:, 1]).exp()
        return gammas, widths

    @torch.no_grad()
    def describe(self) -> dict[str, float]:
        """Return ``gamma`` and ``blur_voxels`` (medians), their spreads, and ``sigma``."""
        return {
            "gamma": float(self.log_gamma.exp()),
            "gamma_spread": float(self.gamma_spread),
            "blur_voxels": float(self.blur_voxels),
            "blur_spread": float(self.blur_spread),
            "sigma": float(self.sigma),
        }

    @torch.no_grad()
    def restore(self, values: Mapping[str, float]) -> None:
        """Set theta; see :meth:`Augmentation.restore`."""
        if values.get("gamma", 1.0) <= 0:
            raise ConfigError(f"gamma must be above 0, not be {values['gamma']}")
        places = {
            "gamma": (self.log_gamma_raw, *_LOG_GAMMA),
            "gamma_spread": (self.gamma_spread_raw, *_GAMMA_SPREAD),
            "blur_voxels": (self.blur_raw, *_BLUR),
            "blur_spread": (self.blur_spread_raw, *_BLUR_SPREAD),
            "sigma": (self.sigma_raw, *_SIGMA),
        }
        logs = {"gamma": math.log(values["gamma"])} if "gamma" in values else {}
        self._place({**values, **logs}, places)


def _power(x: Tensor, gammas: Tensor) -> Tensor:
    exponents = gammas.view(-1, *[1] * (x.ndim - 1))
    return (x.clamp_min(0) + _OFFSET).pow(exponents) - _OFFSET**exponents


def _blurred(x: Tensor, widths: Tensor) -> Tensor:
    r"""Blur images (B, C, \*S) by Gaussians of (B,) widths, one small matrix product per axis."""
    size = x.shape[2:]
    kernels = {n: _kernels(n, widths) for n in set(size)}
    images = []
    for i, image in enumerate(x):
        for axis, n in enumerate(size, start=1):
            kernel, shape = kernels[n][i], image.shape
            if axis == len(size):
                # The kernel is its own transpose.
                image = image @ kernel
            else:
                before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
                image = (kernel @ image.reshape(before, n, after)).view(shape)
        images.append(image)
    return torch.stack(images)


def _kernels(n: int, widths: Tensor) -> Tensor:
    """Matrices of the discrete Gaussian along an axis of n voxels: (B,) to (B, n, n)."""
    basis, decay = (matrix.to(widths) for matrix in _cosines(n))
    factors = (widths.square()[:, None] * decay).exp()
    return (basis * factors[:, None]) @ basis.T


@lru_cache(maxsize=16)
def _cosines(n: int) -> tuple[Tensor, Tensor]:
    """Orthonormal discrete cosine transform, voxels by frequencies, and their cosine less 1.

    Returns
    -------
    (n, n) and (n,) float64 tensors
    """
    index = torch.arange(n, dtype=torch.float64)
    basis = torch.cos((index[:, None] + 0.5) * index * (math.pi / n)) * math.sqrt(2 / n)
    basis[:, 0] = math.sqrt(1 / n)
    return basis, torch.cos(index * (math.pi / n)) - 1


def build(
    *,
    ndim: int,
    group_names: Sequence[str],
    gamma: float = 1.0,
    gamma_spread: float = 0.1,
    blur_voxels: float = 0.5,
    blur_spread: float = 0.3,
    sigma: float = 0.05,
) -> Acquisition:
    """Build the augmentation; see :func:`l2s_pydra.augmentation.build_augmentation`."""
    return Acquisition(
        gamma=gamma,
        gamma_spread=gamma_spread,
        blur_voxels=blur_voxels,
        blur_spread=blur_spread,
        sigma=sigma,
    )
