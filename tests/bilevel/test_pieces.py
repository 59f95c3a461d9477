"""Pieces of lists of tensors, and gradients that can be written to."""

import pytest
import torch

from l2s_pydra.bilevel import pieces as module
from l2s_pydra.bilevel.pieces import owned, pieces


@pytest.fixture
def two_per_piece(monkeypatch):
    """Every tensor of more than two entries (per thread) is large."""
    monkeypatch.setattr(module, "_ENTRIES", 2)


def tensors():
    """All layouts: scalar, vector, channels last, transposed; entries count up from 0."""
    last = torch.arange(48.0).view(2, 3, 2, 4).to(memory_format=torch.channels_last)
    return [torch.tensor(0.0), torch.arange(5.0), last, torch.arange(12.0).view(3, 4).t()]


@pytest.mark.usefixtures("two_per_piece")
def test_each_entry_comes_once_and_with_its_partner():
    a, b = tensors(), [10 * t for t in tensors()]
    seen = []
    for x, y in pieces(a, b):
        for left, right in zip(x, y, strict=True):
            assert torch.equal(10 * left, right)
            seen.append(left.reshape(-1))
    expected = torch.cat([t.reshape(-1) for t in a])
    assert torch.equal(torch.cat(seen).sort().values, expected.sort().values)
    assert len(seen) > len(a)


@pytest.mark.usefixtures("two_per_piece")
def test_what_is_written_to_a_piece_is_written_to_the_tensor():
    a = tensors()
    a[2].requires_grad_()
    for (x,) in ((piece[0],) for piece in pieces(a)):
        torch._foreach_add_(x, 1.0)
    for changed, before in zip(a, tensors(), strict=True):
        assert torch.equal(changed.detach(), before + 1)
        assert changed.stride() == before.stride()


@pytest.mark.usefixtures("two_per_piece")
def test_tensors_of_different_layouts_keep_their_entries_together():
    a = [torch.arange(48.0).view(2, 3, 2, 4)]
    b = [a[0].to(memory_format=torch.channels_last)]
    for x, y in pieces(a, b):
        torch._foreach_sub_(x, y)
    assert not a[0].any()


def test_owned_gradients_share_no_memory_and_have_the_layout_of_the_parameters():
    params = [torch.zeros(3), torch.zeros(3), torch.zeros(2, 3, 2, 2), torch.zeros(4)]
    params[2] = params[2].to(memory_format=torch.channels_last)
    shared = torch.arange(3.0)
    values = torch.arange(24.0).view(2, 3, 2, 2)
    found = owned([shared, shared, values, torch.ones(()).expand(4)], params)
    assert torch.equal(found[2], values)
    assert found[2].stride() == params[2].stride()
    torch._foreach_mul_(found, 2.0)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], torch.tensor([0.0, 2.0, 4.0]))
    assert torch.equal(found[3], torch.full((4,), 2.0))
