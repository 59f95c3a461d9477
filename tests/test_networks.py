"""The U-Net: size, start, shapes; folding voxels into channels."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import nn

from l2s_pydra.errors import ConfigError, ShapeError
from l2s_pydra.networks import UNet, fold, unfold


def parameters(ndim, c_in, c_out, width, depth, max_width=384, convolutions=2, norm=False):
    """Weights and biases of a U-Net, counted by hand."""
    widths = [min(width * 2**level, max_width) for level in range(depth)]

    def conv(a, b, kernel=3):
        return a * b * kernel**ndim + b + (2 * b if norm and kernel == 3 else 0)

    def block(a, b):
        return conv(a, b) + (convolutions - 1) * conv(b, b)

    down = sum(block(a, b) for a, b in zip([c_in, *widths], widths, strict=False))
    up = sum(conv(low, high, 2) for high, low in itertools.pairwise(widths))
    merge = sum(block(2 * b, b) for b in widths[:-1])
    return down + up + merge + conv(widths[0], c_out, 1)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 4, "depth": 1},
        {"width": 4, "depth": 3},
        {"width": 5, "depth": 3, "convolutions": 1},
        {"width": 6, "depth": 4, "max_width": 20, "convolutions": 3},
    ],
)
def test_number_of_parameters(ndim, sizes):
    net = UNet(ndim, 2, 7, **sizes)
    assert sum(p.numel() for p in net.parameters()) == parameters(ndim, 2, 7, **sizes)


def test_the_network_of_the_paper():
    # Hu et al. (ICCV 2025): 2-D, 24 classes. 5.06 million are a width that is not ignored.
    count = parameters(2, 1, 24, 24, 5)
    assert count == sum(p.numel() for p in UNet(2, 1, 24, 24, 5).parameters())
    assert 4e6 < count < 6e6


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_norms_have_a_scale_and_a_shift_per_channel(norm):
    net = UNet(2, 1, 3, 4, 3, norm=norm)
    assert sum(p.numel() for p in net.parameters()) == parameters(2, 1, 3, 4, 3, norm=True)
    assert net(torch.randn(2, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize("ndim", [2, 3])
@torch.no_grad()
def test_weights_start_as_he_says(ndim):
    torch.manual_seed(0)
    net = UNet(ndim, 8, 4, 32, 3)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            fan_in = module.in_channels * 3**ndim if module.kernel_size[0] == 3 else 32
            variance = 2 / fan_in
        elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
            variance = 1 / module.in_channels
        else:
            continue
        # Standard error of a variance over n normal numbers: sqrt(2 / n).
        tolerance = 5 * (2 / module.weight.numel()) ** 0.5
        assert float(module.weight.square().mean()) == pytest.approx(variance, rel=tolerance)
        assert not module.bias.any()


def test_activity_neither_dies_nor_explodes():
    torch.manual_seed(0)
    net = UNet(2, 1, 8, 16, 5)
    assert 0.1 < float(net(torch.randn(4, 1, 64, 64)).detach().std()) < 10


@pytest.mark.parametrize("ndim", [2, 3])
def test_output_has_the_size_of_the_input(ndim):
    size = (8, 12, 4)[:ndim]
    net = UNet(ndim, 2, 3, 4, 3)
    assert net.multiple == 4
    assert net(torch.zeros(2, 2, *size)).shape == (2, 3, *size)
    with pytest.raises(ShapeError, match="multiples of 4; pad it"):
        net(torch.zeros(1, 2, *(n + 2 for n in size)))


def test_shifts_by_whole_strides_commute():
    torch.manual_seed(0)
    net = UNet(2, 1, 2, 4, 3).double()
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    x[..., 24:36, 28:40] = torch.randn(12, 12, dtype=torch.float64)
    shifted = net(x.roll((4, -8), (2, 3)))
    expected = net(x).roll((4, -8), (2, 3))
    inner = (..., slice(16, -16), slice(16, -16))
    torch.testing.assert_close(shifted[inner], expected[inner])


@pytest.mark.parametrize("setting", [{"activation": "swish"}, {"norm": "batch"}])
def test_unknown_parts(setting):
    with pytest.raises(ConfigError, match="available: "):
        UNet(2, 1, 2, 4, 2, **setting)


@pytest.mark.parametrize(("ndim", "factor"), [(2, 1), (2, 2), (2, 3), (3, 2)])
def test_fold_puts_each_block_into_channels(ndim, factor):
    size = [2 * factor, 3 * factor, 4 * factor][:ndim]
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    folded = fold(x, factor)
    assert folded.shape == (2, 3 * factor**ndim, *(n // factor for n in size))
    for i, corner in enumerate(itertools.product(range(factor), repeat=ndim)):
        thinned = x[(slice(None), slice(None), *(slice(c, None, factor) for c in corner))]
        torch.testing.assert_close(folded[:, i :: factor**ndim], thinned, rtol=0, atol=0)
    torch.testing.assert_close(unfold(folded, factor), x, rtol=0, atol=0)


def test_fold_and_unfold_in_2d_are_those_of_torch():
    x = torch.randn(2, 12, 6, 8)
    torch.testing.assert_close(fold(x, 2), nn.functional.pixel_unshuffle(x, 2), rtol=0, atol=0)
    torch.testing.assert_close(unfold(x, 2), nn.functional.pixel_shuffle(x, 2), rtol=0, atol=0)


def test_group_norm_of_any_width():
    net = UNet(2, 1, 3, 9, 3, norm="group")
    assert net(torch.randn(2, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize(("ndim", "size"), [(2, (8, 6)), (3, (4, 6, 8))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_pooling_is_that_of_torch_and_keeps_type_and_layout(ndim, size, dtype):
    layout = torch.channels_last_3d if ndim == 3 else torch.channels_last
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    x = x.to(dtype).to(memory_format=layout)

    pooled = UNet(ndim, 3, 2, 4, 2).pool(x)

    reference = (F.avg_pool2d if ndim == 2 else F.avg_pool3d)(x.float(), 2)
    assert pooled.dtype == dtype
    assert pooled.is_contiguous(memory_format=layout)
    torch.testing.assert_close(
        pooled.float(), reference, rtol=0, atol=1e-6 if dtype == torch.float32 else 0.02
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_gradients_of_two_planes(checkpointing):
    """They were memory that nobody had written, on some CPUs."""
    torch.manual_seed(0)
    net = UNet(3, 1, 2, width=8, depth=3).to(memory_format=torch.channels_last_3d)
    net.checkpointing = checkpointing
    x = torch.rand(1, 1, 8, 16, 16)
    gradients = []
    for enabled in (False, True):
        # What freed memory holds is to show.
        for size in range(4, 22):
            torch.full((1 << size,), float("nan"))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = net(x).float().square().mean()
        gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() <= 0.1 * exact.norm()
