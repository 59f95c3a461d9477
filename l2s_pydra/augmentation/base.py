r"""What every augmentation :math:`A_\theta` is: a differentiable map of a synthetic batch."""

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError

__all__ = ["Augmentation", "SyntheticSample", "bounded", "normal", "unbounded", "uniform"]


class SyntheticSample(Protocol):
    """What is used of a synthetic batch of B images, working grid S, fine grid F."""

    @property
    def image(self) -> Tensor:
        """(B, 1, *S) tensor, the finished image, in about [0, 1]."""

    @property
    def groups(self) -> Tensor:
        """(B, *F) integer tensor, synthesis group of each fine voxel; 0 is outside."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed per image."""

    def noise(self, *, fine: bool = False) -> Tensor:
        """(B, 1, *S), or (B, 1, *F): standard normal, from the seeds alone."""

    def finish(self, fine: Tensor) -> Tensor:
        """(B, 1, *F) to (B, 1, *S): what the generator does after the Gaussian mixture."""

    def normalise(self, image: Tensor) -> Tensor:
        """(B, 1, *S) to the same: robust rescaling to about [0, 1]."""


class Augmentation(nn.Module, abc.ABC):
    r"""Base of the augmentations.

    The parameters of the module are theta, unconstrained; what must be positive, ordered or
    bounded is so by construction (:func:`bounded`), never clamped afterwards.

    All randomness comes from the seeds of the sample: the same sample gives the same image, which
    the difference estimators of the hypergradient rely on.
    """

    replaces_intensities: ClassVar[bool] = False
    """True if the image is made anew from the groups rather than from the finished image."""

    @abc.abstractmethod
    def forward(self, sample: SyntheticSample) -> Tensor:
        r"""Augment a batch.

        Parameters
        ----------
        sample : synthetic sample
            Of B images.

        Returns
        -------
        (B, 1, \*S) tensor
            Normalised as real images are, with its graph to theta.
        """

    @abc.abstractmethod
    def describe(self) -> dict[str, float]:
        """Return theta in physical terms, by flat names such as ``sigma`` or ``mean/thalamus``."""

    def start(self, statistics: Mapping[str, tuple[float, ...]]) -> None:
        """Move theta to where the labelled real images are (moment matching).

        Does nothing where theta has no counterpart in them.

        Parameters
        ----------
        statistics : mapping
            Group name to the mean and the standard deviation of the working voxels of that group,
            in normalised intensities, and, if known, the part of the standard deviation that is
            not shared by neighbouring voxels (all of it otherwise).
        """

    def restore(self, values: Mapping[str, float]) -> None:
        """Set theta to values that :meth:`describe` gave.

        Parameters
        ----------
        values : mapping
            Name to value. What has no value stays as it is; names that are not of this augmentation,
            such as groups that no label map here has, are left alone.

        Raises
        ------
        ConfigError
            If no name is of this augmentation, a value is out of range, or theta is not numbers.
        """
        raise ConfigError(
            f"{type(self).__name__}: theta cannot be set from numbers, it has no restore(values); add that "
            "method (docs/extending.md), or use another augmentation"
        )

    def _place(self, values: Mapping[str, float], places: Mapping[str, "Place"]) -> None:
        """Put values where they belong: an entry of a parameter, and its bounds."""
        known = [name for name in places if name in values]
        if not known:
            raise ConfigError(
                f"none of the values given ({', '.join(values) or 'none'}) is of "
                f"{type(self).__name__}; it has {', '.join(places)}"
            )
        for name in known:
            parameter, low, high = places[name]
            parameter.copy_(_inside(values[name], low, high, name))


Place = tuple[Tensor, float, float]
"""An entry of a parameter, and the bounds of its value."""
_EDGE = 1e-6
"""Share of a range that learned values keep from its ends, as they are written with six digits."""


def _inside(value: float, low: float, high: float, name: str) -> Tensor:
    margin = _EDGE * (high - low)
    near = min(max(value, low + margin), high - margin)
    return unbounded(near if low <= value <= high else value, low, high, name=name)


def bounded(raw: Tensor, low: float, high: float) -> Tensor:
    r"""Map the real line onto (low, high): :math:`l + (h - l)\,\mathrm{sigmoid}(\tau)`.

    Far below ``high``, with ``low`` 0, this is an exponential: a step of :math:`\tau` is a relative
    change, as if the logarithm were learned.
    """
    return low + (high - low) * torch.sigmoid(raw)


def unbounded(value: float | Tensor, low: float, high: float, *, name: str = "value") -> Tensor:
    """Inverse of :func:`bounded`.

    Raises
    ------
    ConfigError
        If a value is not strictly between the bounds.

    Examples
    --------
    >>> round(float(bounded(unbounded(0.1, 0, 1), 0, 1)), 6)
    0.1
    """
    share = (torch.as_tensor(value, dtype=torch.float32) - low) / (high - low)
    if not bool(((share > 0) & (share < 1)).all()):
        raise ConfigError(f"{name} must lie strictly between {low} and {high}, not be {value}")
    return torch.logit(share)


def normal(sample: SyntheticSample, stream: int, shape: Sequence[int]) -> Tensor:
    """Draw standard normal numbers for each image.

    Parameters
    ----------
    sample : synthetic sample
        Gives the seeds, dtype and device.
    stream : int
        Different streams of one seed are independent.
    shape : sequence of int
        Of one image's numbers.

    Returns
    -------
    (B, *shape) tensor
    """
    drawn = [torch.randn(tuple(shape), generator=_generator(s, stream)) for s in sample.seeds]
    return torch.stack(drawn).to(sample.image)


def uniform(sample: SyntheticSample, stream: int, shape: Sequence[int]) -> Tensor:
    """Draw as :func:`normal` does, uniformly in [0, 1)."""
    drawn = [torch.rand(tuple(shape), generator=_generator(s, stream)) for s in sample.seeds]
    return torch.stack(drawn).to(sample.image)


def _generator(seed: int, stream: int) -> torch.Generator:
    # Far from the few streams that synthesis itself draws from the same seed.
    return torch.Generator().manual_seed((seed * 1_000_003 + 500_000 + stream) % 2**63)
