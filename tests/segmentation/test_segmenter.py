"""The segmenter: what it adds to the U-Net."""

import pytest
import torch

from l2s_pydra.config import SegmenterConfig
from l2s_pydra.errors import ShapeError
from l2s_pydra.networks import UNet, fold, unfold
from l2s_pydra.segmentation import Segmenter


def make(**settings):
    torch.manual_seed(0)
    return Segmenter(SegmenterConfig(**{"width": 4, "depth": 2, **settings}), 3)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("subvoxel", [1, 2])
@pytest.mark.parametrize("coordinates", [False, True])
def test_shapes(ndim, subvoxel, coordinates):
    net = make(ndim=ndim, subvoxel=subvoxel, coordinates=coordinates)
    size = [2 * net.multiple, net.multiple, 3 * net.multiple][:ndim]
    assert net.multiple == 2 * subvoxel
    logits = net(torch.rand(2, 1, *size))
    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()
    with pytest.raises(ShapeError):
        net(torch.rand(2, 1, *(n + subvoxel for n in size)))


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_unet_sees_a_centred_image_of_subvoxels(ndim):
    net = make(ndim=ndim, subvoxel=2)
    x = torch.rand(1, 1, *[8] * ndim)
    expected = unfold(net.unet(fold(3 * x - 1, 2)), 2)
    torch.testing.assert_close(net(x), expected)


def test_coordinates_tell_places_apart():
    flat = torch.zeros(1, 1, 32, 32)
    # Every second voxel, as far as the strides are concerned.
    inner = (0, 0, slice(12, 20, 2), slice(12, 20, 2))
    blind, seeing = make(ndim=2)(flat)[inner], make(ndim=2, coordinates=True)(flat)[inner]
    torch.testing.assert_close(blind, blind[:1, :1].expand_as(blind))
    assert float(seeing.detach().std()) > 1e-4


def test_settings_reach_the_unet():
    settings = {"width": 5, "depth": 3, "max_width": 9, "convolutions": 1}
    net = make(ndim=2, norm="group", activation="gelu", **settings)
    reference = UNet(2, 1, 3, norm="group", activation="gelu", **settings)
    sizes = [p.shape for p in net.unet.parameters()]
    assert sizes == [p.shape for p in reference.parameters()]
    assert any(isinstance(module, torch.nn.GELU) for module in net.modules())


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_memory_format_changes_nothing(norm):
    net = make(ndim=2, norm=norm).double()
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    before = net(x)
    net.to(memory_format=net.layout)
    torch.testing.assert_close(net(x), before)
    assert (net.layout == torch.channels_last) == (norm == "none")
