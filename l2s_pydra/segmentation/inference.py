"""From an image on the working grid to posteriors, whole or in tiles."""

import gc
import logging
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..normalisation import normalise
from .planning import Plan, easier, plan_prediction
from .posterior import Posterior
from .segmenter import Segmenter
from .slabs import SlabForward
from .tiles import Span
from .views import View, views

__all__ = ["BLACK", "MARGIN", "MOST_VOXELS", "predict", "predict_posteriors"]

MOST_VOXELS = 6_000_000
MARGIN = 12
"""Voxels around those that are not empty."""
BLACK = 0.02
"""Normalised intensity up to which a voxel is empty."""
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
"""Of errors that have no class of their own."""

_log = logging.getLogger(__name__)
_Piece = tuple[tuple[int, int, int], Tensor]
"""First voxel of a part of the volume, and its posteriors (K, x, y, z)."""


def predict(
    segmenter: Segmenter,
    image: Tensor,
    *,
    opposite: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    draws: int = 1,
    seed: int = 0,
    tiles: str | int | None = "auto",
    memory_mb: float | None = None,
    most_voxels: int | None = None,
) -> Posterior:
    """Posterior of each class, in the box of an image that is not black.

    The image is normalised; what lies outside the box of its non-black voxels (and a margin) is
    background. The network runs in slabs (:class:`~l2s_pydra.segmentation.slabs.SlabForward`) over
    the whole box, or over overlapping tiles whose posteriors are added with Gaussian weights. The
    peak of the memory is predicted from shapes, and tiles are chosen by it; where a device runs out
    of memory all the same, tiles become smaller, and at last the CPU takes over, with tiles that keep
    to the same memory there. The result is a
    function of the arguments and the number of threads.

    Parameters
    ----------
    segmenter : Segmenter
        The network; its weights are copied to ``device``. A 2-D segmenter goes through the slices
        along the last axis.
    image : (X, Y, Z) float tensor
        On the working grid, RAS orientation.
    opposite : sequence of int, optional
        Channel on the other side of the body; if given, the posteriors of the image and of its
        left-right mirror image are averaged.
    device : torch.device or str
        Where to compute.
    precision : str, default="fp32"
        ``bf16`` where the device computes with it, else full precision.
    draws : int, default=1
        Average over this many draws: the image as it is, and others with another contrast (gamma),
        noise, and shifted by up to three voxels.
    seed : int, default=0
        Of the draws.
    tiles : "auto", int or None, default="auto"
        ``auto`` is the whole box where it fits, else the tiles that fit and have least to compute;
        a number the largest side of a tile, voxels; None the whole box at any price.
    memory_mb : float, optional
        Memory that the prediction may take beside the segmenter and the image, 1e6 bytes: on a GPU
        of its memory, else of that of the process. By default
        :data:`~l2s_pydra.segmentation.planning.MEMORY_MB`.
    most_voxels : int, optional
        Largest tile, voxels; instead of ``memory_mb``.

    Returns
    -------
    Posterior

    Raises
    ------
    ShapeError
        If the image is not 3-D.
    ConfigError
        If there are no draws, or ``tiles`` or the memory is out of range.
    """
    _check(image, draws)
    chosen = torch.device(device)
    normalised = normalise(image[None, None].float())[0, 0]
    box = _box(normalised > BLACK, MARGIN)
    crop = normalised[box].contiguous()
    del normalised
    plan, warnings = plan_prediction(
        segmenter,
        tuple(crop.shape),
        tuple(image.shape),
        device=chosen,
        dtype=_dtype(precision, chosen),
        drawn=draws > 1,
        tiles=tiles,
        memory_mb=memory_mb,
        most_voxels=most_voxels,
    )
    looks = list(views(draws, mirror=opposite is not None, seed=seed, ndim=segmenter.config.ndim))
    values, eased = _relieved(segmenter, crop, looks, opposite, plan, precision)
    a, b, c = (part.start for part in box)
    x, y, z = image.shape
    return Posterior(values=values, start=(a, b, c), shape=(x, y, z), warnings=(*warnings, *eased))


def predict_posteriors(
    segmenter: Segmenter,
    image: Tensor,
    *,
    opposite: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    most_voxels: int = MOST_VOXELS,
) -> Tensor:
    """Posterior of each class in each voxel; see :func:`predict`.

    Parameters
    ----------
    segmenter, image, opposite, device, precision
        See :func:`predict`.
    most_voxels : int
        Largest box that is segmented at once.

    Returns
    -------
    (K, X, Y, Z) float32 tensor on the CPU
        Sums to one over ``K``.
    """
    return predict(
        segmenter,
        image,
        opposite=opposite,
        device=device,
        precision=precision,
        most_voxels=most_voxels,
    ).whole()


def _check(image: Tensor, draws: int) -> None:
    if image.ndim != 3:
        raise ShapeError(f"image has shape {tuple(image.shape)}; give a volume with three axes")
    if draws < 1:
        raise ConfigError(f"{draws} draws are not enough; ask for at least 1")


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    """Type to compute with: bf16 if asked for and faster than full precision."""
    if precision != "bf16":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    # Where PyTorch cannot tell what an x86 has, most lack it and would emulate it, slowly
    architecture = known.get("architecture") or platform.machine()
    if architecture.lower() not in ("x86_64", "amd64"):
        return torch.bfloat16
    fast = known.get("avx512_bf16") or known.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32


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


def _relieved(
    segmenter: Segmenter,
    crop: Tensor,
    looks: Sequence[View],
    opposite: Sequence[int] | None,
    plan: Plan,
    precision: str,
) -> tuple[Tensor, list[str]]:
    """Posteriors of the box, with as little memory as it takes; and what was said on the way."""
    said: list[str] = []
    while True:
        try:
            return _run(segmenter, crop, looks, opposite, plan), said
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            following = easier(plan, _dtype(precision, torch.device("cpu")))
            if following is None:
                raise
        # Beyond the handler, whose traceback holds what was computed.
        gc.collect()
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
        said.append(f"out of memory on {plan.device}; going on {following.words()}")
        _log.info("%s", said[-1])
        if following.device != plan.device:
            said.extend(following.excess)
        plan = following


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(text in str(error) for text in _MESSAGES)


@torch.no_grad()
def _run(
    segmenter: Segmenter,
    crop: Tensor,
    looks: Sequence[View],
    opposite: Sequence[int] | None,
    plan: Plan,
) -> Tensor:
    """Mean of the posteriors over all ways to look at the box."""
    network = SlabForward(segmenter, plan.device, plan.dtype)
    pass_through = _slices if segmenter.config.ndim == 2 else _volume
    total = torch.zeros(segmenter.n_classes, *crop.shape)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for look in looks:
            order = opposite if look.mirrored and opposite is not None else range(len(total))
            for start, part in pass_through(network, look(crop), plan, look.shift):
                _add(total, part.div_(len(looks)), start, look, order)
                del part
    return total


def _add(
    total: Tensor, part: Tensor, start: tuple[int, int, int], look: View, order: Sequence[int]
) -> None:
    """Add the posteriors of a part to where they belong."""
    to: list[slice] = []
    of: list[slice] = []
    for first, shift, n, whole in zip(
        start, look.shift, part.shape[1:], total.shape[1:], strict=True
    ):
        low, high = max(0, first - shift), min(whole, first - shift + n)
        if low >= high:
            return
        to.append(slice(low, high))
        of.append(slice(low - first + shift, high - first + shift))
    part = part[:, *of].cpu()
    if look.mirrored:
        to[0] = slice(total.shape[1] - to[0].stop, total.shape[1] - to[0].start)
    for channel, other in enumerate(order):
        target = total[channel][tuple(to)]
        target += part[other].flip(0) if look.mirrored else part[other]


def _volume(
    network: SlabForward, volume: Tensor, plan: Plan, shift: tuple[int, int, int]
) -> Iterator[_Piece]:
    """Posteriors of a volume, tile by tile and slab by slab."""
    tiling, segmenter = plan.tiling, network.segmenter
    reach = [max(start + n for start, n in axis) for axis in tiling.spans]
    for tile in tiling:
        windows = [w.to(network.device) for w in tiling.windows(tile)]
        (x, y), (wy, wz) = (tile[0][0], tile[1:]), windows[1:]
        image = _cut(volume, tile, shift)[None, None].to(network.device)
        entry = segmenter.entry(image, start=[start for start, _ in tile], whole=reach)
        del image
        for row, logits in network(entry):
            part = logits[0].softmax(0)
            del logits
            if len(tiling) > 1:
                part *= windows[0][row : row + part.shape[1], None, None]
                part *= wy[:, None] * wz
            yield (x + row, y[0][0], y[1][0]), part
            del part


def _cut(volume: Tensor, tile: Sequence[Span], shift: Sequence[int]) -> Tensor:
    """Cut a tile out of a volume that is shifted, with black beyond it."""
    out = volume.new_zeros([n for _, n in tile])
    to, of = [], []
    for (start, n), s, whole in zip(tile, shift, volume.shape, strict=True):
        low, high = max(0, start - s), min(whole, start - s + n)
        of.append(slice(low, max(low, high)))
        to.append(slice(low - start + s, max(low, high) - start + s))
    out[tuple(to)] = volume[tuple(of)]
    return out


def _slices(
    network: SlabForward, volume: Tensor, plan: Plan, shift: tuple[int, int, int]
) -> Iterator[_Piece]:
    """Posteriors of slices, some at a time."""
    tile = [(0, n) for n in plan.tiling.largest]
    for z in range(0, volume.shape[2], plan.batch):
        slices = _rescaled(torch.movedim(volume[:, :, z : z + plan.batch], -1, 0)[:, None])
        inputs = torch.stack([_cut(one[0], tile, shift[:2])[None] for one in slices])
        for row, logits in network(network.segmenter.entry(inputs.to(network.device))):
            yield (row, 0, z), torch.movedim(logits.softmax(1), 0, -1)
            del logits


def _rescaled(slices: Tensor) -> Tensor:
    """Normalise each slice, as in training, but never brighten one more than twofold.

    A slice of noise beside the head would otherwise look like tissue.
    """
    alone = normalise(slices)
    axes = (1, 2, 3)
    gain = alone.amax(axes, keepdim=True) / slices.amax(axes, keepdim=True).clamp_min(1e-6)
    return torch.where(gain <= 2, alone, slices * 2)
