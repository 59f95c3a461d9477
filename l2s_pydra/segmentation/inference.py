"""From an image on the working grid to posteriors, whole or in tiles."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..normalisation import normalise
from .segmenter import Segmenter

__all__ = ["predict_posteriors"]

MOST_VOXELS = 6_000_000
_TILE = 128
_OVERLAP = 16
_MARGIN = 12
_BLACK = 0.02


def predict_posteriors(
    segmenter: Segmenter,
    image: Tensor,
    *,
    opposite: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    most_voxels: int = MOST_VOXELS,
) -> Tensor:
    """Posterior of each class in each voxel.

    The image is normalised; what lies outside the box of its non-black voxels (and a margin) is
    background. Boxes larger than ``most_voxels`` are segmented in overlapping tiles of about 128 voxels
    whose logits are blended with Gaussian weights; a network that sees coordinates is always given
    the whole box.

    Parameters
    ----------
    segmenter : Segmenter
        On ``device``. A 2-D segmenter goes through the slices along the last axis.
    image : (X, Y, Z) float tensor
        On the working grid, RAS orientation.
    opposite : sequence of int, optional
        Channel on the other side of the body; if given, the posteriors of the image and of its
        left-right mirror image are averaged.
    device : torch.device or str
        Where to compute.
    precision : str, default="fp32"
        ``bf16`` runs the network under autocast.
    most_voxels : int
        Largest box that is segmented at once.

    Returns
    -------
    (K, X, Y, Z) float32 tensor on the CPU
        Sums to one over ``K``.
    """
    x = normalise(image[None, None].float())[0, 0]
    box = _box(x > _BLACK, _MARGIN)
    crop = x[box]
    predict = _slices if segmenter.config.ndim == 2 else _volume

    def run(volume: Tensor) -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            return predict(segmenter, volume.to(device), most_voxels).float().softmax(0).cpu()

    training = segmenter.training
    segmenter.eval()
    with torch.no_grad():
        inner = run(crop)
        if opposite is not None:
            inner = (inner + run(crop.flip(0)).flip(1)[list(opposite)]) / 2
    segmenter.train(training)
    posteriors = torch.zeros(segmenter.n_classes, *image.shape)
    posteriors[0] = 1
    posteriors[(slice(None), *box)] = inner
    return posteriors


def _box(mask: Tensor, margin: int) -> tuple[slice, ...]:
    if not bool(mask.any()):
        return tuple(slice(0, n) for n in mask.shape)
    box = []
    for axis, n in enumerate(mask.shape):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hit = mask.any(dim=others).nonzero()
        pad = margin if n > 1 else 0
        box.append(slice(max(0, int(hit.min()) - pad), min(n, int(hit.max()) + 1 + pad)))
    return tuple(box)


def _padded(net: Callable[[Tensor], Tensor], x: Tensor, multiple: int) -> Tensor:
    """Run ``net`` on (B, 1, *S), padded with black to multiples and cropped back."""
    size = x.shape[2:]
    pad: list[int] = []
    for n in reversed(size):
        pad += [0, -n % multiple]
    y = net(torch.nn.functional.pad(x, pad))
    inner = [slice(0, n) for n in size]
    return y[:, :, *inner]


def _slices(segmenter: Segmenter, volume: Tensor, most_voxels: int) -> Tensor:
    slices = _rescaled(torch.movedim(volume, -1, 0)[:, None])
    batch = max(1, most_voxels // max(1, volume[..., 0].numel()))
    parts = torch.split(slices, min(batch, 32))
    logits = [_padded(segmenter, part, segmenter.multiple) for part in parts]
    return torch.movedim(torch.cat(logits), 0, -1)


def _rescaled(slices: Tensor) -> Tensor:
    """Normalise each slice, as in training, but never brighten one more than twofold.

    A slice of noise beside the head would otherwise look like tissue.
    """
    alone = normalise(slices)
    axes = (1, 2, 3)
    gain = alone.amax(axes, keepdim=True) / slices.amax(axes, keepdim=True).clamp_min(1e-6)
    return torch.where(gain <= 2, alone, slices * 2)


def _volume(segmenter: Segmenter, volume: Tensor, most_voxels: int) -> Tensor:
    if volume.numel() <= most_voxels or segmenter.config.coordinates:
        return _padded(segmenter, volume[None, None], segmenter.multiple)[0]
    tile = [_tile(n, segmenter.multiple) for n in volume.shape]
    total = torch.zeros(segmenter.n_classes, *volume.shape, device=volume.device)
    weight = torch.zeros(volume.shape, device=volume.device)
    window = _gaussian(tile).to(volume.device)
    starts = [_starts(n, t) for n, t in zip(volume.shape, tile, strict=True)]
    for corner in itertools.product(*starts):
        part = tuple(slice(s, s + t) for s, t in zip(corner, tile, strict=True))
        logits = _padded(segmenter, volume[part][None, None], segmenter.multiple)[0]
        total[(slice(None), *part)] += logits * window
        weight[part] += window
    return total / weight


def _tile(n: int, multiple: int) -> int:
    """Side of the fewest equal tiles of at most 128 voxels, and little more, that cover ``n``.

    >>> _tile(100, 8), _tile(160, 8), _tile(256, 8)
    (100, 88, 96)
    """
    if n <= _TILE:
        return n
    count = math.ceil((n - _OVERLAP) / (_TILE - _OVERLAP))
    side = (n + (count - 1) * _OVERLAP) / count
    return min(n, math.ceil(side / multiple) * multiple)


def _starts(n: int, tile: int) -> list[int]:
    """First voxels of tiles that overlap by at least 16 voxels and cover ``n`` voxels.

    >>> _starts(200, 112), _starts(100, 112)
    ([0, 88], [0])
    """
    if n <= tile:
        return [0]
    count = math.ceil((n - _OVERLAP) / (tile - _OVERLAP))
    return [round(i * (n - tile) / (count - 1)) for i in range(count)]


def _gaussian(size: Sequence[int]) -> Tensor:
    """Separable Gaussian window with a standard deviation of a quarter of the tile."""
    window = torch.ones(())
    for n in size:
        x = torch.arange(n) - (n - 1) / 2
        window = window[..., None] * torch.exp(-0.5 * (x / (n / 4)) ** 2)
    return window
