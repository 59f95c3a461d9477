"""Sub-clusters: labels split by the intensities of an image.

A label that lumps several tissues (background, white matter with its lesions, an unmyelinated
brain) is not one Gaussian. Zalevskyi et al. (FetalSynthSeg, MICCAI 2024, arXiv 2403.15103) split
labels by the expectation-maximisation algorithm on the labelled images before synthesis, and found
this to matter most where there are few labels (arXiv 2411.06842).
"""

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError

__all__ = ["Mixture", "fit_gaussians", "split_by_intensity"]

_MOST_VALUES = 2**16
_FLOOR = 0.01
"""Least standard deviation of a component, as a share of that of all values."""


@attrs.frozen(kw_only=True, eq=False)
class Mixture:
    """Mixture of K Gaussians in one dimension, in the order of their means; float64."""

    weights: Tensor
    """(K,), sum to one."""
    means: Tensor
    """(K,)."""
    stds: Tensor
    """(K,), positive."""

    def log_densities(self, values: Tensor) -> Tensor:
        """Logarithm of each component's share in the density: (V,) to (K, V)."""
        z = (values.double() - self.means[:, None]) / self.stds[:, None]
        constant = self.weights.clamp_min(1e-300).log() - self.stds.log()
        return z.square_().mul_(-0.5).add_(constant[:, None] - 0.5 * math.log(2 * math.pi))

    def assign(self, values: Tensor) -> Tensor:
        """Most probable component of each value: (V,) to (V,) int64."""
        return self.log_densities(values).argmax(0)


def fit_gaussians(
    values: Tensor, count: int, *, iterations: int = 50, tolerance: float = 1e-4
) -> Mixture:
    """Fit a mixture of Gaussians by expectation maximisation.

    It starts at the mean and standard deviation of as many parts of equal size of the sorted values,
    and uses at most 2**16 values, spread evenly: the same values give the same mixture. As always
    with this algorithm, it is the maximum of the likelihood that is nearest to the start.

    Parameters
    ----------
    values : (V,) tensor
        At least one, all finite.
    count : int
        Number of components K.
    iterations : int, default=50
        At most.
    tolerance : float, default=1e-4
        Gain in mean log-likelihood per value at which to stop.

    Returns
    -------
    Mixture
        No standard deviation is below 1/100 of that of all values (or, if these are constant, a
        millionth of their magnitude).

    Raises
    ------
    ShapeError
        If the values are not a list.
    ConfigError
        If there is no value, a value is not finite, or the count is less than one.

    References
    ----------
    Dempster, Laird and Rubin, Journal of the Royal Statistical Society B, 1977.
    """
    if values.ndim != 1:
        raise ShapeError(f"values must be a list, not of shape {tuple(values.shape)}")
    if count < 1:
        raise ConfigError(f"the number of components must be at least 1, not {count}")
    if not len(values) or not bool(torch.isfinite(values).all()):
        raise ConfigError("a mixture needs values, all of them finite")
    x = _spread(values.detach(), max(count, min(len(values), _MOST_VALUES)))
    center = x.mean()
    scale = (x - center).square().mean().sqrt().clamp_min(1e-6 * max(1.0, float(center.abs())))
    x = (x - center).div_(scale).sort().values
    mixture = _start(x, count)
    before = -math.inf
    for _ in range(iterations):
        logs = mixture.log_densities(x)
        total = logs.logsumexp(0)
        likelihood = float(total.mean())
        mixture = _maximised(x, logs.sub_(total).exp_(), mixture)
        if likelihood - before < tolerance:
            break
        before = likelihood
    order = mixture.means.argsort(stable=True)
    return Mixture(
        weights=mixture.weights[order],
        means=mixture.means[order] * scale + center,
        stds=mixture.stds[order] * scale,
    )


def split_by_intensity(
    labels: Tensor, image: Tensor, counts: Mapping[int, int]
) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    r"""Split labels into sub-clusters of intensity.

    The voxels of each label in ``counts`` go to the most probable component of a mixture fitted to
    them.

    Parameters
    ----------
    labels : (\*S) integer tensor
        Label map.
    image : (\*S) tensor
        Finite intensities.
    counts : mapping
        Label to its number of sub-clusters, at least 1. Other labels keep one; labels that the map
        lacks are passed over.

    Returns
    -------
    clusters : (\*S) int16 tensor (int32 if there are too many)
        New values from 0, in the order of labels and then of the clusters' means.
    origin : tuple of (int, int)
        Label and number of its cluster for each new value. A label with fewer distinct intensities
        than clusters leaves some of them without a voxel.

    Raises
    ------
    ShapeError
        If labels and image differ in shape.
    ConfigError
        If a count is less than 1, or an intensity of a label to be split is not finite.
    """
    if labels.shape != image.shape:
        raise ShapeError(
            f"labels {tuple(labels.shape)} and image {tuple(image.shape)} differ in shape"
        )
    for label, count in counts.items():
        if count < 1:
            raise ConfigError(f"label {label} needs at least 1 sub-cluster, not {count}")
    flat, intensities = labels.reshape(-1), image.detach().reshape(-1)
    present = torch.unique(flat)
    names: list[int] = present.tolist()
    origin = tuple((name, k) for name in names for k in range(counts.get(name, 1)))
    first = [value for value, (_, k) in enumerate(origin) if k == 0]
    dtype = torch.int16 if len(origin) < 2**15 else torch.int32
    table = torch.tensor(first, dtype=dtype, device=labels.device)
    clusters = table[torch.searchsorted(present, flat)]
    for name, value in zip(names, first, strict=True):
        if counts.get(name, 1) > 1:
            voxels = (flat == name).nonzero()[:, 0]
            found = intensities[voxels]
            mixture = fit_gaussians(found, counts[name])
            clusters[voxels] = mixture.assign(found).add_(value).to(dtype)
    return clusters.view(labels.shape), origin


def _spread(values: Tensor, count: int) -> Tensor:
    """Take ``count`` values, evenly over the list: float64."""
    if len(values) == count:
        return values.double()
    steps = torch.arange(count, device=values.device)
    return values[steps * len(values) // count].double()


def _start(x: Tensor, count: int) -> Mixture:
    """Parts of equal size of the sorted values, which differ in mean wherever values do."""
    parts = x.tensor_split(count)
    stds = torch.stack([part.std(correction=0) for part in parts])
    return Mixture(
        weights=torch.full_like(stds, 1 / count),
        means=torch.stack([part.mean() for part in parts]),
        stds=stds.clamp_min(1 / (2 * count)),
    )


def _maximised(x: Tensor, shares: Tensor, before: Mixture) -> Mixture:
    """Weights, means and standard deviations under (K, V) shares of the values."""
    mass = shares.sum(1)
    held = mass > 1e-9
    safe = mass.clamp_min(1e-9)
    means = torch.where(held, shares @ x / safe, before.means)
    variances = torch.stack(
        [share @ (x - mean).square_() for share, mean in zip(shares, means, strict=True)]
    )
    return Mixture(
        weights=mass / mass.sum(), means=means, stds=(variances / safe).sqrt_().clamp_min(_FLOOR)
    )
