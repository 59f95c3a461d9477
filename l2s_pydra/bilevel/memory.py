"""How much memory a training step takes, from shapes; and how much there is.

The activations that a pass keeps for its backward pass are counted layer by layer: what autograd
saves of each operation, which is exact. What comes and goes besides (gradients on their way back, the
second backward pass of the exact estimator) is a multiple of that, as measured;
``benchmarks/memory_plan.py`` compares the sum with the peaks of real steps.

Symbols: P parameters, K classes, V voxels of an image, F voxels of its fine grid.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..config import LearnConfig, SegmenterConfig

__all__ = ["StepMemory", "parameter_count", "predict", "saved_bytes"]

_FLOAT = 4
"""Bytes of a number in full precision."""
_LOSS_GRADIENTS = 2.25
"""Gradients of the size of the logits, in full precision, while the loss is differentiated."""
_BLOCK_GRADIENTS = 2.5
"""Gradients of the size of the first level's output, while its last block is differentiated."""
_GRAPH_OF_GRADIENT = 2.1
"""What the graph of a gradient keeps, over what the pass kept."""
_SECOND_BACKWARD = (2.6, 3.5)
"""Peak of the second backward pass, over what the network and the loss kept."""
_RENDERING = (12, 15)
"""Bytes for each fine and each working voxel while an image is rendered."""


@attrs.frozen(kw_only=True)
class StepMemory:
    """Bytes at the peak of a training step, by what they are for."""

    parameters: int
    """Networks, their averages, the moments of the optimiser, copies to go back to, gradients."""
    images: int
    """Synthetic and real images and their targets."""
    augmentation: int
    """What the graph from theta to the synthetic images keeps."""
    activations: int
    """What the passes of the segmenter keep."""
    passing: int
    """What comes and goes while gradients are computed."""
    rendering: int
    """What comes and goes while images are rendered; before the passes."""

    @property
    def total(self) -> int:
        """Peak, bytes."""
        passes = self.augmentation + self.activations + self.passing
        return self.parameters + self.images + max(passes, self.rendering)

    @property
    def gb(self) -> float:
        """Peak, 1e9 bytes."""
        return self.total / 1e9


@attrs.frozen(kw_only=True)
class _Pass:
    """Bytes kept and passing in one forward and backward pass of one image."""

    network: int
    loss: int
    passing: int


def parameter_count(config: SegmenterConfig, n_classes: int) -> int:
    """Return the number of parameters of a segmenter.

    Examples
    --------
    >>> parameter_count(SegmenterConfig(ndim=2, width=4, depth=2), 3)
    1655
    """
    widths, fold = _widths(config), int(config.subvoxel**config.ndim)
    kernel, norms = 3**config.ndim, 0 if config.norm == "none" else 2

    def block(c_in: int, c_out: int) -> int:
        count = 0
        for _ in range(config.convolutions):
            count += c_in * c_out * kernel + c_out * (1 + norms)
            c_in = c_out
        return count

    count = block(_channels(config), widths[0])
    for upper, lower in itertools.pairwise(widths):
        count += block(upper, lower) + lower * upper * 2**config.ndim + upper
        count += block(2 * upper, upper)
    return count + (widths[0] + 1) * n_classes * fold


def predict(
    config: LearnConfig,
    n_classes: int,
    size: Sequence[int],
    *,
    estimator: str = "plain",
    device: str = "cpu",
    processes: int = 1,
    augmentation: float = 0.0,
) -> StepMemory:
    """Predict the peak memory of a training step.

    Parameters
    ----------
    config : LearnConfig
        Network, batches, precision, and how far memory is spared: ``checkpoint_activations``,
        ``micro_batch_size``.
    n_classes : int
        K.
    size : sequence of int
        Sides of an image, working voxels.
    estimator : str, default="plain"
        ``plain`` for a step without a hypergradient, or the estimator's name.
    device : str, default="cpu"
        ``cpu`` or ``cuda``.
    processes : int, default=1
        That share the batches.
    augmentation : float, default=0
        Bytes that the augmentation keeps for each working voxel; see :func:`saved_bytes`.

    Returns
    -------
    StepMemory
    """
    t, voxels = config.training, math.prod(size)
    fine = voxels * config.synthesis.oversampling ** len(size)
    shares = config.synthesis.oversampling > 1
    batch = max(1, t.batch_size // processes)
    real = 0
    if estimator != "plain":
        real = max(1, round(t.real_fraction * t.real_batch_size))
        real = max(1, real // processes)
    micro = min(t.micro_batch_size or batch, batch)
    at_once = max(micro, min(t.micro_batch_size or real, real))
    one = _one_pass(config, n_classes, size, shares=shares, device=device)
    kept, passing = at_once * (one.network + one.loss), at_once * one.passing
    p = _FLOAT * parameter_count(config.segmenter, n_classes)
    whole = micro == batch and t.synthetic_fraction == 1
    if estimator == "exact":
        kept, passing = _exact(
            one, at_once, keeps_graph=whole and not t.checkpoint_activations, passing=passing
        )
    target = _FLOAT * n_classes * voxels if shares else voxels
    image = _FLOAT * voxels + target
    return StepMemory(
        parameters=_parameters(config, p, estimator),
        # A finished image beside the one that is augmented, and its gradient.
        images=batch * (image + fine)
        + real * image
        + (0 if estimator == "plain" else 3 * _FLOAT * batch * voxels),
        augmentation=0 if estimator == "plain" else round(batch * augmentation * voxels),
        activations=kept,
        passing=passing,
        rendering=_RENDERING[0] * fine + _RENDERING[1] * voxels,
    )


def saved_bytes(function: Callable[[], Any]) -> int:
    """Count what autograd saves for the backward pass of a function.

    Each tensor counts once, and none with more than its own entries.
    """
    seen: dict[tuple[int, int], Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # Kept alive, so that no other one takes its address.
        seen[tensor.data_ptr(), _size(tensor)] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    total = sum(_size(tensor) for tensor in seen.values())
    del result
    return total


def _size(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _parameters(config: LearnConfig, p: int, estimator: str) -> int:
    """Bytes of all that is as large as the parameters, ``p`` bytes each."""
    t = config.training
    moments = 1 if t.optimizer == "sgd" else 2
    # The network and its average; phi, average and best of the state; one more where it is tuned.
    copies = 5 + ("finetuned" in t.mode)
    # What a step that runs out of memory goes back to.
    copies += moments + (1 + moments)
    # The gradient, or the vector that is pulled back; beside a copy for the hypergradient.
    copies += {"plain": 1, "exact": 4}.get(estimator, 2)
    casts = p // 2 if t.precision == "bf16" else 0
    return copies * p + casts


def _exact(one: _Pass, images: int, *, keeps_graph: bool, passing: int) -> tuple[int, int]:
    """Bytes kept and passing where the gradient is differentiated."""
    kept = images * (one.network + one.loss)
    if keeps_graph:
        # The real pass comes on top of the graph.
        return round((1 + _GRAPH_OF_GRADIENT) * kept), passing
    network, loss = _SECOND_BACKWARD
    return kept, round(images * (network * one.network + loss * one.loss)) - kept


def _widths(config: SegmenterConfig) -> list[int]:
    return [min(config.width * 2**level, config.max_width) for level in range(config.depth)]


def _channels(config: SegmenterConfig) -> int:
    """Channels of the input of the U-Net."""
    own = 1 + (config.ndim if config.coordinates else 0)
    return int(own * config.subvoxel**config.ndim)


def _one_pass(
    config: LearnConfig, n_classes: int, size: Sequence[int], *, shares: bool, device: str
) -> _Pass:
    s, t = config.segmenter, config.training
    kept, inner = _kept_by_network(
        s, size, number=2 if t.precision == "bf16" else _FLOAT, device=device,
        checkpointed=t.checkpoint_activations,
    )  # fmt: skip
    logits = _FLOAT * n_classes * math.prod(size)
    loss = _kept_by_loss(t.loss, logits, math.prod(size), shares=shares)
    number = 2 if t.precision == "bf16" else _FLOAT
    voxels = math.prod(size) // s.subvoxel**s.ndim
    block = round(_BLOCK_GRADIENTS * number * s.width * voxels)
    # The peak is where the loss is differentiated, or, without what it kept, in the last block.
    passing = max(round(_LOSS_GRADIENTS * logits), inner + block - loss)
    return _Pass(network=kept, loss=loss, passing=passing)


def _kept_by_network(
    config: SegmenterConfig, size: Sequence[int], *, number: int, device: str, checkpointed: bool
) -> tuple[int, int]:
    """Bytes that the U-Net keeps of one image, and those of its largest block run again.

    ``number`` is the size of one activation.
    """
    fine = math.prod(size) // config.subvoxel**config.ndim
    # Of each convolution its input, and with a normalisation what that is given. ELU and GELU keep
    # what they are given too, ReLU what it gives, which is the next input.
    kinds = 1 + (config.norm != "none") + (config.activation != "relu")
    entries = [_channels(config), *_widths(config)]
    blocks, total = [], 0
    for level in range(config.depth):
        into, out = entries[level : level + 2]
        voxels = fine // int(2 ** (config.ndim * level))
        output = number * out * voxels
        block = kinds * config.convolutions * output
        deepest = level == config.depth - 1
        # The image enters a block that is checkpointed before it is cast.
        total += (_FLOAT if checkpointed and level == 0 else number) * into * voxels
        if not deepest:
            total += 2 * output + _kept_by_pooling(config, out * voxels, number, device)
        if checkpointed:
            total += output
        else:
            # What goes down is copied into what is merged; only some poolings keep it.
            keeps = config.activation == "relu" or device != "cpu" or config.pooling == "max"
            total += block if deepest else 2 * block - (0 if keeps else output)
        if not deepest and _is_cast(config, number, device):
            total -= 0 if checkpointed else output
        # Run again, a block stops before its last output, and what it gave has been used up.
        blocks.append(block - 2 * output)
    return total, max(blocks) if checkpointed else 0


def _is_cast(config: SegmenterConfig, number: int, device: str) -> bool:
    """Whether the input of the pooling is copied in full precision, as maxima are on CPUs."""
    return config.pooling == "max" and device == "cpu" and number != _FLOAT


def _kept_by_pooling(config: SegmenterConfig, entries: int, number: int, device: str) -> int:
    """Bytes that a pooling keeps of its input, beside the input."""
    if config.pooling != "max":
        return 0
    places = 8 * entries // int(2**config.ndim)
    return places + (_FLOAT * entries if _is_cast(config, number, device) else 0)


def _kept_by_loss(name: str, logits: int, voxels: int, *, shares: bool) -> int:
    """Bytes that a loss keeps, its target not counted; ``logits`` is their size."""
    index = 0 if shares else 8 * voxels
    return {
        "ce": logits + index,
        "dice": logits + index,
        "ce_dice": 2 * logits + 2 * index,
        "logit_mse": logits if shares else 2 * logits + index,
    }[name]
