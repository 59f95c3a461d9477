r"""Nonparametric augmentation: a residual U-Net with a noise channel.

.. math:: \tilde x = x + U_\theta([x, \xi]), \qquad \xi \sim N(0, I)

Hu et al., Learn2Synth, ICCV 2025, section 3.2 (nonparametric augmentation).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor

from ..networks import UNet
from .base import Augmentation, SyntheticSample

__all__ = ["ResidualUNet", "build"]

# Small, not 0: at 0 only the last layer would receive a gradient.
_FINAL_GAIN = 1e-2


class ResidualUNet(Augmentation):
    """Adds the output of a U-Net that sees the image and a channel of noise.

    The last layer starts close to zero, so that training starts at the identity.

    Parameters
    ----------
    ndim : int
        2 or 3.
    width : int, default=16
        Channels of the first level.
    depth : int, default=2
        Number of levels.
    """

    residual_std: Tensor

    def __init__(self, ndim: int, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.unet = UNet(ndim, 2, 1, width, depth)
        with torch.no_grad():
            self.unet.final.weight.mul_(_FINAL_GAIN)
        self.register_buffer("residual_std", torch.zeros(()))

    def forward(self, sample: SyntheticSample) -> Tensor:
        """Augment a batch; see :meth:`Augmentation.forward`."""
        x = sample.image
        residual = self._padded(torch.cat([x, sample.noise()], dim=1))
        self.residual_std.copy_(residual.detach().std())
        return sample.normalise(x + residual)

    def _padded(self, x: Tensor) -> Tensor:
        """U-Net on sides that are no multiples of what it needs: replicate, and crop."""
        size = x.shape[2:]
        missing = [-side % self.unet.multiple for side in size]
        if any(missing):
            x = F.pad(x, [p for m in reversed(missing) for p in (0, m)], mode="replicate")
        output: Tensor = self.unet(x)
        for axis, side in enumerate(size, start=2):
            output = output.narrow(axis, 0, side)
        return output

    @torch.no_grad()
    def describe(self) -> dict[str, float]:
        """Return ``residual_std``, the standard deviation of the residual of the last batch."""
        return {"residual_std": float(self.residual_std)}


def build(
    *, ndim: int, group_names: Sequence[str], width: int = 16, depth: int = 2
) -> ResidualUNet:
    """Build the augmentation; see :func:`l2s_pydra.augmentation.build_augmentation`."""
    return ResidualUNet(ndim, width, depth)
