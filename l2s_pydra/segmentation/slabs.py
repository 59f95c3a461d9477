"""The forward pass of a segmenter for inference, in slabs: as exact as the plain one, with less memory.

A level's output that later levels need is kept whole, and nothing else: what convolutions take and
give in between, the upsampled input of a merging block and the logits exist for one slab of rows
(planes across the first axis) at a time. A slab reads as many more rows as its convolutions reach.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from .segmenter import Segmenter

__all__ = ["SlabForward", "slab_rows"]

_SLAB_VOXELS = 2**18
"""Voxels of a slab, at least: few enough for small buffers, many enough for what slabs cost more."""

_Layers = list[Callable[[Tensor], Tensor]]


def slab_rows(size: tuple[int, ...], *, normalised: bool) -> int:
    """Rows of a slab of a level.

    Parameters
    ----------
    size : ints
        Sides of the level.
    normalised : bool
        Whether the network normalises over the whole level, so that there is one slab only.

    Examples
    --------
    >>> slab_rows((160, 192, 160), normalised=False), slab_rows((160, 192, 160), normalised=True)
    (10, 160)
    >>> slab_rows((20, 24, 20), normalised=False)
    20
    """
    if normalised or len(size) == 2:
        return size[0]
    plane = size[1] * size[2]
    # Even, so that slabs can be pooled; as equal as possible, so that the last one is no sliver.
    count = max(1, size[0] * plane // _SLAB_VOXELS)
    rows = -(-size[0] // count)
    return min(size[0], rows + rows % 2)


@attrs.frozen(eq=False)
class _Convolution:
    """A 3 x 3 (x 3) convolution of rows, some of which are next to the volume's end."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, front: bool, back: bool) -> Tensor:
        """Convolve; rows at an inner end have neighbours in ``x`` and get lost there.

        Parameters
        ----------
        x : (B, C, *S) tensor
        front, back : bool
            Whether zeros go before the first row and behind the last.
        """
        run = torch.conv3d if x.ndim == 5 else torch.conv2d
        along = 1 if front or back else 0
        y = run(x, self.weight, self.bias, padding=[along] + [1] * (x.ndim - 3))
        if front != back:
            y = y[:, :, 1:] if back else y[:, :, :-1]
        return y


@attrs.frozen(eq=False)
class _Block:
    """Convolutions, each with what follows it: normalisation and activation."""

    convolutions: tuple[_Convolution, ...]
    after: tuple[_Layers, ...]

    def __call__(self, fetch: Callable[[int, int], Tensor], n: int, rows: int) -> Iterator[Tensor]:
        """Give the output in slabs.

        Parameters
        ----------
        fetch : callable
            ``fetch(a, b)`` returns the rows from ``a`` to ``b`` of the input.
        n : int
            Rows there are.
        rows : int
            Rows of a slab.
        """
        for low in range(0, n, rows):
            high = min(low + rows, n)
            reach = len(self.convolutions)
            a, b = max(0, low - reach), min(n, high + reach)
            x = fetch(a, b)
            for convolution, after in zip(self.convolutions, self.after, strict=True):
                reach -= 1
                start, stop = max(0, low - reach), min(n, high + reach)
                x = convolution(x, start == a, stop == b)
                for layer in after:
                    x = layer(x)
                a, b = start, stop
            yield x
            del x


class SlabForward:
    """A segmenter's forward pass without gradients.

    Parameters
    ----------
    segmenter : Segmenter
        Its weights are copied, to the device and in the type asked for.
    device : torch.device
        Where to compute.
    dtype : torch.dtype
        Of weights and activations; normalisations are computed in full precision.

    Notes
    -----
    Channels come last in memory, for every network: the reason why training does without for
    networks with normalisation is in their gradients.
    """

    def __init__(self, segmenter: Segmenter, device: torch.device, dtype: torch.dtype) -> None:
        self.segmenter, self.device, self.dtype = segmenter, device, dtype
        self._normalised = segmenter.config.norm != "none"
        self._layout = torch.channels_last_3d if segmenter.config.ndim == 3 else torch.channels_last
        unet = segmenter.unet
        self._down = [self._block(block) for block in unet.down]
        self._up = [self._weights(up) for up in unet.up]
        self._merge = [self._block(block) for block in unet.merge]
        weight, bias = self._weights(unet.final)
        self._final = weight.flatten(1), bias

    def __call__(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Give the logits of an image in slabs.

        Parameters
        ----------
        x : (B, C, *S) tensor
            What :meth:`Segmenter.entry` makes of images.

        Yields
        ------
        start : int
            First row of the slab, in voxels of the image.
        logits : (B, K, R, *S[1:]) float32 tensor
            Of ``R`` rows.
        """
        fold = self.segmenter.config.subvoxel
        x = x.to(self.dtype).contiguous(memory_format=self._layout)
        start = 0
        for y in self._last(x):
            logits = self.segmenter.exit(self._logits(y))
            del y
            yield start * fold, logits
            start += logits.shape[2] // fold

    def _last(self, x: Tensor) -> Iterator[Tensor]:
        """Give the output of the last block in slabs."""
        skips: list[Tensor] = []
        for block in self._down[:-1]:
            skip, x = self._encoded(block, x)
            skips.append(skip)
            del skip
        for i, (up, merge) in enumerate(zip(self._up, self._merge, strict=True)):
            if i == 0:
                x = self._whole(self._slabs(self._down[-1], x), x.shape[2])
            skip = skips.pop()
            slabs = self._merged(up, merge, skip, x)
            if i == len(self._up) - 1:
                del skip, x
                yield from slabs
                return
            n = skip.shape[2]
            del skip, x
            x = self._whole(slabs, n)
            del slabs
        yield from self._slabs(self._down[-1], x)

    def _rows(self, x: Tensor) -> int:
        return slab_rows(tuple(x.shape[2:]), normalised=self._normalised)

    def _slabs(self, block: _Block, x: Tensor) -> Iterator[Tensor]:
        return block(lambda a, b: x[:, :, a:b], x.shape[2], self._rows(x))

    def _encoded(self, block: _Block, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of a block of the way down, and the same pooled."""
        pool = self.segmenter.unet.pool
        n, pooled = x.shape[2], []

        def watched() -> Iterator[Tensor]:
            for slab in self._slabs(block, x):
                pooled.append(pool(slab))
                yield slab

        whole = self._whole(watched(), n)
        return whole, self._whole(iter(pooled), n // 2)

    def _merged(
        self, up: tuple[Tensor, Tensor], merge: _Block, skip: Tensor, x: Tensor
    ) -> Iterator[Tensor]:
        run = torch.conv_transpose3d if x.ndim == 5 else torch.conv_transpose2d

        def fetch(a: int, b: int) -> Tensor:
            part = x[:, :, a // 2 : (b + 1) // 2]
            upper = run(part, *up, stride=2)
            return torch.cat([upper[:, :, a % 2 : a % 2 + b - a], skip[:, :, a:b]], 1)

        return merge(fetch, skip.shape[2], self._rows(skip))

    def _whole(self, slabs: Iterator[Tensor], n: int) -> Tensor:
        """Put slabs of ``n`` rows together."""
        first = next(slabs)
        if first.shape[2] == n:
            return first
        size = (*first.shape[:2], n, *first.shape[3:])
        whole = torch.empty(
            size, dtype=first.dtype, device=first.device, memory_format=self._layout
        )
        start = first.shape[2]
        whole[:, :, :start] = first
        del first
        for slab in slabs:
            whole[:, :, start : start + slab.shape[2]] = slab
            start += slab.shape[2]
        return whole

    def _logits(self, y: Tensor) -> Tensor:
        """Multiply by the weights of the last layer, so that classes come first in memory."""
        weight, bias = self._final
        voxels = y.movedim(1, -1).flatten(1, -2)
        logits = torch.bmm(weight.expand(len(y), -1, -1), voxels.mT).float()
        logits += bias.float()[:, None]
        return logits.view(len(y), -1, *y.shape[2:])

    def _weights(self, layer: Any) -> tuple[Tensor, Tensor]:
        weight = layer.weight.detach().to(self.device, self.dtype)
        return (
            weight.contiguous(memory_format=self._layout),
            layer.bias.detach().to(self.device, self.dtype),
        )

    def _block(self, block: nn.Module) -> _Block:
        convolutions: list[_Convolution] = []
        after: list[_Layers] = []
        for layer in block.children():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                convolutions.append(_Convolution(*self._weights(layer)))
                after.append([])
            elif any(True for _ in layer.parameters()):
                after[-1].append(self._normalisation(layer))
            else:
                after[-1].append(layer)
        return _Block(tuple(convolutions), tuple(after))

    def _normalisation(self, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        function = copy.deepcopy(layer).to(self.device)

        def run(x: Tensor) -> Tensor:
            y: Tensor = function(x.float())
            return y.to(self.dtype, memory_format=self._layout)

        return run
