"""Posteriors of an image: a box of them, beyond which there is background."""

import attrs
import torch
from torch import Tensor

__all__ = ["Posterior"]


@attrs.frozen(kw_only=True, eq=False)
class Posterior:
    """Posterior of each class in the voxels of a box; elsewhere, background is certain.

    Examples
    --------
    >>> box = Posterior(values=torch.full((2, 1, 1, 2), 0.5), start=(1, 0, 0), shape=(3, 1, 2))
    >>> box.whole()[:, :, 0, 0].tolist()
    [[1.0, 0.5, 1.0], [0.0, 0.5, 0.0]]
    >>> box.sums().tolist()
    [5.0, 1.0]
    """

    values: Tensor
    """(K, x, y, z) float32, on the CPU; sums to one over ``K``."""
    start: tuple[int, int, int]
    """First voxel of the box on the working grid."""
    shape: tuple[int, int, int]
    """Voxels of the working grid."""
    warnings: tuple[str, ...] = ()
    """What went otherwise than asked for, for the log."""

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where the box lies on the working grid."""
        x, y, z = (slice(a, a + n) for a, n in zip(self.start, self.values.shape[1:], strict=True))
        return x, y, z

    def whole(self) -> Tensor:
        """Posteriors of the whole working grid: (K, X, Y, Z)."""
        if self.values.shape[1:] == self.shape:
            return self.values
        whole = torch.zeros(len(self.values), *self.shape)
        whole[0] = 1
        whole[(slice(None), *self.box)] = self.values
        return whole

    def part(self, first: tuple[int, int, int], shape: tuple[int, int, int]) -> "Posterior":
        """Give the posteriors of a part of the grid.

        Parameters
        ----------
        first : 3 ints
            First voxel of the part.
        shape : 3 ints
            Its size.
        """
        ends = [a + n for a, n in zip(self.start, self.values.shape[1:], strict=True)]
        low = [min(max(a - f, 0), n) for a, f, n in zip(self.start, first, shape, strict=True)]
        high = [min(max(b - f, a), n) for b, f, a, n in zip(ends, first, low, shape, strict=True)]
        inside = [
            slice(a + f - s, b + f - s)
            for a, b, f, s in zip(low, high, first, self.start, strict=True)
        ]
        x, y, z = low
        return attrs.evolve(self, values=self.values[:, *inside], start=(x, y, z), shape=shape)

    def within(self, share: Tensor) -> "Posterior":
        """Give the posteriors of what is inside of something, and background in the rest.

        Parameters
        ----------
        share : (X, Y, Z) float tensor
            How much of each voxel of the grid is inside.
        """
        values = self.values * share[self.box]
        values[0] += 1 - share[self.box]
        return attrs.evolve(self, values=values)

    def labels(self) -> Tensor:
        """Most probable class, the first of equals: (X, Y, Z) int16."""
        labels = torch.zeros(self.shape, dtype=torch.int16)
        labels[self.box] = self.values.argmax(0).to(torch.int16)
        return labels

    def sums(self) -> Tensor:
        """Sum of each class's posterior over the grid, voxels: (K,) float64."""
        sums = torch.stack([frame.sum(dtype=torch.float64) for frame in self.values])
        sums[0] += torch.Size(self.shape).numel() - self.values[0].numel()
        return sums

    def entropy(self) -> Tensor:
        """Entropy of the posterior in each voxel, in nats: (X, Y, Z) float32; 0 beyond the box."""
        entropy = torch.zeros(self.shape)
        inside = entropy[self.box]
        for frame in self.values:
            inside -= torch.special.xlogy(frame, frame)
        return entropy
