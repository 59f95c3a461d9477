"""Lists of tensors, cut into parts that stay in a processor's cache."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["owned", "pieces"]

_ENTRIES = 2**17
"""Of a part, per thread: few enough that a dozen of these stay in the cache, and enough that the
calls do not count."""


def pieces(*lists: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Go through lists of tensors in matching parts, views that can be written to.

    A formula of a dozen elementwise operations on whole tensors moves each through the memory a
    dozen times, at a cost that shows beside a small batch. On a CPU, large tensors are therefore
    cut into flat parts, and small ones taken together. Other devices, whose kernels
    take whole lists at once, get all in one part.

    Parameters
    ----------
    *lists : sequences of tensors
        Of one length, and of one shape at each position.

    Yields
    ------
    tuple of lists of tensors
        One list for each of ``lists``, without graphs. Over all parts, each entry occurs once.

    Examples
    --------
    >>> a, b = [torch.zeros(3), torch.zeros(300, 400)], [torch.ones(3), torch.ones(300, 400)]
    >>> for x, y in pieces(a, b):
    ...     _ = torch._foreach_add_(x, y)
    >>> all(bool((t == 1).all()) for t in a)
    True
    """
    whole = [[tensor.detach() for tensor in tensors] for tensors in lists]
    if any(tensor.device.type != "cpu" for tensor in whole[0]):
        yield tuple(whole)
        return
    size = _ENTRIES * torch.get_num_threads()
    rows = list(zip(*whole, strict=True))
    small = [row for row in rows if row[0].numel() <= size]
    if small:
        yield tuple(list(column) for column in zip(*small, strict=True))
    for row in rows:
        if row[0].numel() > size:
            for part in zip(*(torch.split(tensor, size) for tensor in _flat(row)), strict=True):
                yield tuple([tensor] for tensor in part)


def _flat(tensors: Sequence[Tensor]) -> list[Tensor]:
    """One-dimensional views in one order of entries, or the tensors if there is none."""
    strides = tensors[0].stride()
    order = sorted(range(len(strides)), key=lambda axis: -strides[axis])
    permuted = [tensor.permute(order) for tensor in tensors]
    if all(tensor.is_contiguous() for tensor in permuted):
        return [tensor.view(-1) for tensor in permuted]
    return list(tensors)


@torch.no_grad()
def owned(found: list[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Give each of these gradients memory of its own, in the layout of its parameter.

    Autograd may return one tensor for two parameters, or one with repeated entries, neither of
    which can be written to; and some of torch's convolutions leave gradients in a layout in which
    every further operation is slow.
    """
    seen: set[int] = set()
    for i, (tensor, param) in enumerate(zip(found, like, strict=True)):
        if tensor.stride() != param.stride() or tensor.untyped_storage().data_ptr() in seen:
            found[i] = torch.empty_like(param, requires_grad=False).copy_(tensor)
        seen.add(found[i].untyped_storage().data_ptr())
    return found
