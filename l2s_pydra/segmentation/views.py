"""What an image is looked at through before it is segmented: mirrored, shifted, in another contrast."""

from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

__all__ = ["SHIFT", "View", "views"]

SHIFT = 3
"""Largest shift, voxels: the network's coarser levels then see other blocks of voxels."""
_LOG_GAMMA = 0.2
"""Standard deviation of the logarithm of gamma."""
_NOISE = 0.03
"""Largest standard deviation of the noise, where tissue is about 0.5 to 1."""


@attrs.frozen(kw_only=True)
class View:
    """A way to look at an image; what is seen has to be brought back by the same way."""

    mirrored: bool = False
    """Left and right exchanged; after all else."""
    shift: tuple[int, int, int] = (0, 0, 0)
    """Voxels along each axis."""
    gamma: float = 1.0
    """Exponent of the intensities."""
    noise: float = 0.0
    """Standard deviation of the noise."""
    seed: int = 0
    """Of the noise."""

    def __call__(self, image: Tensor) -> Tensor:
        """Change the intensities of an image in [0, 2] and mirror it; it is shifted elsewhere."""
        if self.gamma != 1:
            image = image**self.gamma
        if self.noise:
            generator = torch.Generator().manual_seed(self.seed)
            noise = torch.empty_like(image).normal_(0, self.noise, generator=generator)
            image = noise.add_(image).clamp_(0, 2)
        return image.flip(0) if self.mirrored else image


def views(draws: int, *, mirror: bool, seed: int, ndim: int = 3) -> Iterator[View]:
    """Draw ways to look at an image.

    Parameters
    ----------
    draws : int
        How many; the first is the image as it is.
    mirror : bool
        Whether each is looked at mirrored, too.
    seed : int
        Of the draws; a smaller number of draws is the start of a larger one.
    ndim : int, default=3
        2 where slices along the last axis are segmented one by one: nothing moves along it.

    Examples
    --------
    >>> [view.mirrored for view in views(1, mirror=True, seed=0)]
    [False, True]
    """
    generator = torch.Generator().manual_seed(seed)
    for number in range(draws):
        view = View() if number == 0 else _drawn(generator, ndim)
        yield view
        if mirror:
            yield attrs.evolve(view, mirrored=True)


def _drawn(generator: torch.Generator, ndim: int) -> View:
    x, y, z = torch.randint(SHIFT + 1, (3,), generator=generator).tolist()
    log_gamma, share = torch.randn((), generator=generator), torch.rand((), generator=generator)
    return View(
        shift=(x, y, z if ndim == 3 else 0),
        gamma=float(torch.exp(_LOG_GAMMA * log_gamma)),
        noise=float(_NOISE * share),
        seed=int(torch.randint(2**31, (), generator=generator)),
    )
