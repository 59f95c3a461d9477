"""First-order passes of the two levels, and the bookkeeping of parameters around them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor, nn

from .pieces import owned

__all__ = [
    "Losses",
    "Predict",
    "Reduce",
    "SyntheticLoss",
    "SyntheticPass",
    "apply_clip",
    "assign",
    "clip_factor",
    "copied_buffers",
    "differentiate_clip",
    "exchanged",
    "forget_casts",
    "gradients",
    "kept_buffers",
    "norm_of",
    "trainable",
]

Predict = Callable[[Tensor], Tensor]
"""The segmenter at some value of phi: image (B, C, *S) -> logits (B, K, *S)."""
Loss = Callable[[Predict], Tensor]
Losses = Loss | Sequence[Loss]
"""One loss, or several whose sum is the loss."""
Reduce = Callable[[list[Tensor]], None]
"""Replaces tensors, in place, by their means over processes."""


class SyntheticLoss(Protocol):
    """``synthetic_loss(predict, x, part)``: loss of ``predict(x)``, a *mean* over the images.

    ``x`` is the slice ``part`` of the synthetic batch, so the targets are to be sliced likewise.
    """

    def __call__(self, predict: Predict, x: Tensor, part: slice, /) -> Tensor:
        """Return a () tensor."""


@attrs.define(kw_only=True)
class SyntheticPass:
    """The synthetic loss and its derivatives, at whatever parameters the segmenter holds."""

    segmenter: nn.Module
    params: dict[str, nn.Parameter]
    """Those that are trained."""
    image: Tensor
    """(B, C, *S) tensor with its graph to theta."""
    loss: SyntheticLoss
    part: slice
    """Images that enter the mixed derivative, the first of the batch."""
    micro_batch: int
    """Largest number of images in one pass."""
    full_precision: bool = False
    """Whether autocast is turned off inside the segmenter."""

    @property
    def in_one_piece(self) -> bool:
        """Whether the mixed derivative takes the whole batch, in one pass."""
        return bool(self.part.stop == self.micro_batch == len(self.image))

    def wrapped(self, predict: Predict) -> Predict:
        """Turn autocast off inside ``predict``, if asked for."""
        if not self.full_precision:
            return predict

        def precise(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):
                return predict(x)

        return precise

    @property
    def predict(self) -> Predict:
        """The segmenter."""
        return self.wrapped(self.segmenter)

    def leaf(self, part: slice) -> Tensor:
        """Images of the batch, cut off from theta, that require a gradient."""
        return self.image[part].detach().requires_grad_()

    def evaluate(self, x: Tensor, part: slice) -> Tensor:
        """Loss of some images of the batch."""
        forget_casts()
        return self.loss(self.predict, x, part)

    def differentiate(self, *, with_image: bool) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Loss of the whole batch, its gradient, and that with respect to the images ``part``.

        The image gradient is scaled as if the loss were a mean over ``part``.
        """
        params, count = list(self.params.values()), len(self.image)
        total = self.image.new_zeros(())
        grads: list[Tensor] = []
        at_phi: list[Tensor] = []
        for part in _pieces(count, self.micro_batch):
            wanted = with_image and part.start < self.part.stop
            x = self.leaf(part) if wanted else self.image[part].detach()
            loss = self.evaluate(x, part) * ((part.stop - part.start) / count)
            leaves = [*params, x] if wanted else params
            found = owned(gradients(loss, leaves), leaves)
            if wanted:
                at_phi.append(found.pop()[: self.part.stop - part.start])
            if grads:
                torch._foreach_add_(grads, found)
            else:
                grads = found
            total = total + loss.detach()
        # A mean over the part weighs each image B / |part| times as much as one over the batch.
        return total, grads, torch.cat(at_phi) * (count / self.part.stop) if with_image else None

    def image_gradient(self) -> Tensor:
        """Gradient of the mean loss over the images ``part`` with respect to them."""
        found = []
        for part in _pieces(self.part.stop, self.micro_batch):
            x = self.leaf(part)
            loss = self.evaluate(x, part) * ((part.stop - part.start) / self.part.stop)
            found += gradients(loss, [x])
        return torch.cat(found)

    def contracted(self, u: Sequence[Tensor]) -> Tensor:
        """Gradient of <gradient of the mean loss over ``part``, u> with respect to its images."""
        params, found = list(self.params.values()), []
        for part in _pieces(self.part.stop, self.micro_batch):
            x = self.leaf(part)
            loss = self.evaluate(x, part) * ((part.stop - part.start) / self.part.stop)
            found += gradients(gradients(loss, params, create_graph=True), [x], u)
        return torch.cat(found)


def forget_casts() -> None:
    """Drop what an autocast around the step has kept of parameters that have changed since."""
    torch.clear_autocast_cache()


def _pieces(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name."""
    return {name: param for name, param in module.named_parameters() if param.requires_grad}


def gradients(
    outputs: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    vectors: Tensor | Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
) -> list[Tensor]:
    """:func:`torch.autograd.grad`, with zeros for inputs that are not used."""
    return list(
        torch.autograd.grad(
            outputs, inputs, vectors, create_graph=create_graph, materialize_grads=True
        )
    )


@torch.no_grad()
def assign(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into parameters."""
    torch._foreach_copy_(list(params), list(values))


@contextlib.contextmanager
def exchanged(params: Sequence[nn.Parameter], values: list[Tensor]) -> Iterator[None]:
    """Let the parameters hold other values for a while.

    Parameters
    ----------
    params : sequence of Parameter
        Hold ``values`` inside the block, and exactly what they held before after it.
    values : list of Tensor
        Overwritten: the only copy that is held is the one they make room for.
    """
    with torch.no_grad():
        for param, value in zip(params, values, strict=True):
            before = param.clone()
            param.copy_(value)
            value.copy_(before)
    try:
        yield
    finally:
        assign(params, values)


def copied_buffers(module: nn.Module) -> Callable[[], None]:
    """Copy the buffers (running statistics) and return what puts them back as they were."""
    before = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]

    @torch.no_grad()
    def restore() -> None:
        for owner, name, buffer, value in before:
            buffer.copy_(value)
            # Some modules put another tensor in the place of a buffer.
            setattr(owner, name, buffer)

    return restore


@contextlib.contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Let buffers (running statistics) come out of the block as they went in."""
    restore = copied_buffers(module)
    try:
        yield
    finally:
        restore()


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all tensors together, a () tensor."""
    norms = torch._foreach_norm([tensor.detach() for tensor in tensors])
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    return total


def clip_factor(norm: Tensor, largest: float | None) -> Tensor | None:
    """Return what a gradient of this norm is multiplied with, None if it stays as it is."""
    if largest is None:
        return None
    if not largest > 0:
        raise ValueError(f"max_gradient_norm must be above 0, not {largest}")
    return largest / norm if bool(norm > largest) else None


@torch.no_grad()
def apply_clip(grads: list[Tensor], factor: Tensor | None) -> None:
    """Scale gradients in place."""
    if factor is not None:
        torch._foreach_mul_(grads, factor)


@torch.no_grad()
def differentiate_clip(
    u: list[Tensor], clipped: Sequence[Tensor], norm: Tensor, factor: Tensor | None
) -> None:
    r"""Pull ``u`` back through :math:`g \mapsto c\, g / \|g\|`, in place.

    The derivative is :math:`(c / \|g\|)\,(I - \hat g \hat g^\top)`, with
    :math:`\hat g = g / \|g\|`.
    """
    if factor is None:
        return
    # The clipped gradient is c times the unit vector.
    largest = factor * norm
    products = [(a * b).sum() for a, b in zip(u, clipped, strict=True)]
    along = torch.stack(products).sum() / largest**2
    torch._foreach_sub_(u, torch._foreach_mul(list(clipped), along))
    torch._foreach_mul_(u, factor)
