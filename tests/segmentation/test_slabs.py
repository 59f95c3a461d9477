"""The forward pass in slabs is that of the network."""

import pytest
import torch

from l2s_pydra.config import SegmenterConfig
from l2s_pydra.segmentation import Segmenter, slabs

NETWORKS = {
    "plain": {"depth": 3},
    "one level": {"depth": 1, "convolutions": 3},
    "one convolution": {"depth": 4, "convolutions": 1},
    "folded": {"depth": 2, "subvoxel": 2, "activation": "gelu", "pooling": "max"},
    "instance": {"depth": 3, "norm": "instance", "coordinates": True},
    "group": {"depth": 2, "norm": "group", "activation": "relu"},
    "slices": {"ndim": 2, "depth": 3, "norm": "instance", "subvoxel": 2},
}
CPU = torch.device("cpu")


@pytest.fixture(params=list(NETWORKS))
def case(request):
    """A network, an image and its logits."""
    torch.manual_seed(0)
    net = Segmenter(SegmenterConfig(**{"ndim": 3, "width": 4} | NETWORKS[request.param]), 5)
    m = net.multiple
    sides = [-(-n // m) * m for n in (28, 24, 16)[: net.config.ndim]]
    x = torch.rand(2 if len(sides) == 2 else 1, 1, *sides)
    with torch.no_grad():
        return net, x, net(x)


def run(net, x, dtype):
    with torch.no_grad():
        found = list(slabs.SlabForward(net, CPU, dtype)(net.entry(x)))
    starts = [start for start, _ in found]
    assert starts == [sum(y.shape[2] for _, y in found[:i]) for i in range(len(found))]
    return torch.cat([y for _, y in found], 2), len(found)


@pytest.mark.parametrize("voxels", [1, 2**11, 2**30])
def test_slabs_give_the_logits_of_the_whole(case, voxels, monkeypatch):
    monkeypatch.setattr(slabs, "_SLAB_VOXELS", voxels)
    net, x, expected = case
    found, count = run(net, x, torch.float32)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    sides = tuple(n // net.config.subvoxel for n in x.shape[2:])
    rows = slabs.slab_rows(sides, normalised=net.config.norm != "none")
    assert count == -(-sides[0] // rows)


def test_bf16_is_as_exact_as_autocast(case, monkeypatch):
    monkeypatch.setattr(slabs, "_SLAB_VOXELS", 2**11)
    net, x, expected = case
    found, _ = run(net, x, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cast = net(x).float()
    ours, theirs = ((y - expected).square().mean().sqrt() for y in (found, cast))
    assert found.dtype == torch.float32
    assert float(ours) < 1.2 * float(theirs) + 1e-3


@pytest.mark.parametrize("n", [1, 2, 7, 30, 160])
@pytest.mark.parametrize("plane", [4, 100, 400])
def test_slabs_can_be_pooled(n, plane):
    rows = slabs.slab_rows((n, plane, plane), normalised=False)
    assert rows == n or rows % 2 == 0
    assert slabs.slab_rows((n, plane), normalised=False) == n
