"""The U-Net shared by the segmenter and the nonparametric augmentation."""

import math

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .errors import ConfigError, ShapeError

__all__ = ["UNet", "fold", "unfold"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "gelu": nn.GELU, "relu": nn.ReLU}


def fold(x: Tensor, factor: int) -> Tensor:
    """Fold blocks of ``factor`` voxels per axis into channels (space to depth).

    Parameters
    ----------
    x : (B, C, *S) tensor
        Each of ``S`` a multiple of ``factor``.
    factor : int
        Side of a block, voxels.

    Returns
    -------
    (B, C * factor**ndim, *S / factor) tensor

    Examples
    --------
    >>> x = torch.arange(16.0).view(1, 1, 4, 4)
    >>> fold(x, 2).shape
    torch.Size([1, 4, 2, 2])
    >>> bool((unfold(fold(x, 2), 2) == x).all())
    True
    """
    if factor == 1:
        return x
    b, c, *size = x.shape
    ndim = len(size)
    split = [n for s in size for n in (s // factor, factor)]
    x = x.reshape(b, c, *split)
    order = [0, 1, *range(3, 3 + 2 * ndim, 2), *range(2, 2 + 2 * ndim, 2)]
    return x.permute(order).reshape(b, c * factor**ndim, *(s // factor for s in size))


def unfold(x: Tensor, factor: int) -> Tensor:
    """Inverse of :func:`fold`: (B, C * factor**ndim, *S) to (B, C, *S * factor)."""
    if factor == 1:
        return x
    b, c, *size = x.shape
    ndim = len(size)
    x = x.reshape(b, c // factor**ndim, *[factor] * ndim, *size)
    order = [0, 1]
    for axis in range(ndim):
        order += [2 + ndim + axis, 2 + axis]
    return x.permute(order).reshape(b, -1, *(s * factor for s in size))


class UNet(nn.Module):
    """U-Net with a configurable number of levels, width, activation and normalisation.

    Convolutions are 3 wide, weights start as He et al. (ICCV 2015) and biases at zero.

    Parameters
    ----------
    ndim : int
        2 or 3.
    in_channels, out_channels : int
        Channels of input and output.
    width : int
        Channels of the first level, doubled at each level up to ``max_width``.
    depth : int
        Number of levels; the input's sides must be multiples of ``2**(depth - 1)``.
    max_width : int, default=384
        Upper bound of the channels.
    convolutions : int, default=2
        Convolutions per level and side.
    activation : str, default="elu"
        ``elu``, ``gelu`` or ``relu``.
    norm : str, default="none"
        ``none``, ``instance`` or ``group``.
    pooling : str, default="average"
        ``average`` or ``max``. Maxima have kinks, which difference estimators of the hypergradient
        do not see through.

    Raises
    ------
    ConfigError
        If the activation, the normalisation or the pooling is unknown.

    References
    ----------
    Ronneberger et al., U-Net, MICCAI 2015; Hu et al., Learn2Synth, ICCV 2025, section 4 (ELU, no
    normalisation).
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        width: int,
        depth: int,
        *,
        max_width: int = 384,
        convolutions: int = 2,
        activation: str = "elu",
        norm: str = "none",
        pooling: str = "average",
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ConfigError(
                f"unknown activation {activation!r}; available: {', '.join(_ACTIVATIONS)}"
            )
        self.ndim, self.depth = ndim, depth
        self.checkpointing = False
        """Whether blocks keep their inputs only and run again in the backward pass: less memory,
        about a third more time."""
        widths = [min(width * 2**level, max_width) for level in range(depth)]
        conv = nn.Conv3d if ndim == 3 else nn.Conv2d
        up = nn.ConvTranspose3d if ndim == 3 else nn.ConvTranspose2d
        self.pool = _pool(pooling, ndim)

        def block(c_in: int, c_out: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                layers += [
                    conv(c_in, c_out, 3, padding=1),
                    *_norm(norm, c_out, ndim),
                    _ACTIVATIONS[activation](),
                ]
                c_in = c_out
            return nn.Sequential(*layers)

        self.down = nn.ModuleList(
            block(c_in, c_out) for c_in, c_out in zip([in_channels, *widths], widths, strict=False)
        )
        levels = list(reversed(range(depth - 1)))
        self.up = nn.ModuleList(up(widths[i + 1], widths[i], 2, stride=2) for i in levels)
        self.merge = nn.ModuleList(block(2 * widths[i], widths[i]) for i in levels)
        self.final = conv(widths[0], out_channels, 1)
        self.apply(_initialise)

    @property
    def multiple(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (self.depth - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, *S) to (B, out_channels, *S).

        Raises
        ------
        ShapeError
            If a side of the input is no multiple of ``2**(depth - 1)``.
        """
        if any(side % self.multiple for side in x.shape[2:]):
            raise ShapeError(
                f"U-Net input {tuple(x.shape[2:])} must have sides that are multiples of "
                f"{self.multiple}; pad it"
            )
        skips = []
        for level, block in enumerate(self.down):
            x = self._run(block, x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = self._run(merge, torch.cat([up(x), skips.pop()], dim=1))
        return self.final(x)  # type: ignore[no-any-return]

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(_precise, block, x, use_reentrant=False)  # type: ignore[no-any-return]
        return _precise(block, x)


def _precise(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block, in full precision where gradients of bf16 are none.

    On CPUs with AVX512-BF16 and without AMX, bf16 gradients of the weights of 3-D convolutions over a
    first side of 2 voxels are memory that was never written (torch 2.13).
    """
    broken = x.ndim == 5 and x.shape[2] == 2 and x.device.type == "cpu"
    if broken and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return block(x.float())  # type: ignore[no-any-return]
    return block(x)  # type: ignore[no-any-return]


def _pool(name: str, ndim: int) -> nn.Module:
    kinds: dict[tuple[str, int], type[nn.Module]] = {
        ("average", 2): _AveragePool,
        ("average", 3): _AveragePool,
        ("max", 2): nn.MaxPool2d,
        ("max", 3): nn.MaxPool3d,
    }
    if (name, ndim) not in kinds:
        raise ConfigError(f"unknown pooling {name!r}; available: average, max")
    return kinds[name, ndim](2)


class _AveragePool(nn.Module):
    """Mean of blocks of 2 voxels along each axis."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            pool = F.avg_pool3d if x.ndim == 5 else F.avg_pool2d
            return pool(x, self.size)
        # Sums of slices keep the type and the layout: on CPUs the pooling of torch 2.13 knows no
        # bf16, loses channels-last, and takes 20 times as long.
        for axis in range(2, x.ndim):
            first, *others = (x[_every(axis, start, self.size)] for start in range(self.size))
            for other in others:
                first = first + other
            x = first
        return x * float(self.size) ** (2 - x.ndim)


def _every(axis: int, start: int, step: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(start, None, step),)


def _norm(name: str, channels: int, ndim: int) -> list[nn.Module]:
    if name == "none":
        return []
    if name == "instance":
        kind = nn.InstanceNorm3d if ndim == 3 else nn.InstanceNorm2d
        return [kind(channels, affine=True)]
    if name == "group":
        return [nn.GroupNorm(math.gcd(8, channels), channels)]
    raise ConfigError(f"unknown normalisation {name!r}; available: none, instance, group")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
        # Stride equals kernel: each output voxel sees one input voxel, so fan-in is C_in.
        nn.init.normal_(module.weight, std=(1.0 / module.in_channels) ** 0.5)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
