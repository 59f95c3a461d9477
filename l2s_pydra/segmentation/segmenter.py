"""The segmenter S_phi."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import SegmenterConfig
from ..networks import UNet, fold, unfold

__all__ = ["Segmenter"]

_SCALE, _OFFSET = 3.0, -1.0
"""Brings images of about [0, 1] to about zero mean and unit variance inside the head."""


class Segmenter(nn.Module):
    """U-Net from a normalised image to class logits, in 2-D or 3-D.

    Parameters
    ----------
    config : SegmenterConfig
        The architecture.
    n_classes : int
        Number of classes ``K``, background included.

    Examples
    --------
    >>> net = Segmenter(SegmenterConfig(ndim=2, width=4, depth=2, subvoxel=2), 3)
    >>> net.multiple, net(torch.zeros(1, 1, 8, 12)).shape
    (4, torch.Size([1, 3, 8, 12]))
    """

    def __init__(self, config: SegmenterConfig, n_classes: int) -> None:
        super().__init__()
        self.config, self.n_classes = config, n_classes
        block = config.subvoxel**config.ndim
        channels = 1 + (config.ndim if config.coordinates else 0)
        self.unet = UNet(
            config.ndim,
            channels * block,
            n_classes * block,
            config.width,
            config.depth,
            max_width=config.max_width,
            convolutions=config.convolutions,
            activation=config.activation,
            norm=config.norm,
            pooling=config.pooling,
        )

    @property
    def multiple(self) -> int:
        """Sides of the input must be multiples of this."""
        return self.unet.multiple * self.config.subvoxel

    @property
    def layout(self) -> torch.memory_format:
        """Memory format that suits the network's convolutions."""
        if self.config.norm != "none":
            # Under bf16 autocast on CPUs, gradients of channels-last weights through instance
            # norm are wrong (torch 2.13).
            return torch.contiguous_format
        return torch.channels_last_3d if self.config.ndim == 3 else torch.channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 1, *S) in about [0, 1] to logits (B, K, *S).

        Raises
        ------
        ShapeError
            If a side is no multiple of :attr:`multiple`.
        """
        return self.exit(self.unet(self.entry(x).contiguous(memory_format=self.layout)))

    def entry(
        self, x: Tensor, *, start: Sequence[int] | None = None, whole: Sequence[int] | None = None
    ) -> Tensor:
        """Map images (B, 1, *S) in about [0, 1] to what the U-Net is given.

        Parameters
        ----------
        x : (B, 1, *S) tensor
        start : ints, optional
            First voxel of ``x`` in a larger image, whose coordinates count; 0 by default.
        whole : ints, optional
            Sides of the larger image; those of ``x`` by default.
        """
        x = _SCALE * x + _OFFSET
        if self.config.coordinates:
            size = x.shape[2:]
            x = torch.cat([x, _coordinates(x, start or [0] * len(size), whole or size)], 1)
        return fold(x, self.config.subvoxel)

    def exit(self, x: Tensor) -> Tensor:
        """Map what the U-Net gives to logits (B, K, *S)."""
        return unfold(x, self.config.subvoxel)


def _coordinates(x: Tensor, start: Sequence[int], whole: Sequence[int]) -> Tensor:
    """Voxel coordinates from the centre, in units of 100 voxels: (B, ndim, *S)."""
    axes = [
        (torch.arange(a, a + n, device=x.device, dtype=x.dtype) - (w - 1) / 2) / 100
        for n, a, w in zip(x.shape[2:], start, whole, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return grid.expand(x.shape[0], *grid.shape)
