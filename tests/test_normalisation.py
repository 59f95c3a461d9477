"""Robust rescaling against NumPy's percentiles."""

import numpy as np
import pytest
import torch

from l2s_pydra.normalisation import normalise


def head(shape, seed=0):
    """A dark background with a bright middle."""
    generator = torch.Generator().manual_seed(seed)
    x = 20 * torch.rand(1, 1, *shape, generator=generator)
    middle = tuple(slice(n // 4, 3 * n // 4) for n in shape)
    x[(0, 0, *middle)] += 100 + 50 * torch.rand([n // 2 for n in shape], generator=generator)
    return x


@pytest.mark.parametrize("shape", [(40, 36), (16, 20, 12)])
def test_percentiles_become_0_and_1(shape):
    x = head(shape)
    values = x.numpy().ravel()
    low = np.percentile(values, 0.5, method="lower")
    high = np.percentile(values[values > values.mean()], 99, method="lower")
    expected = np.clip((values - low) / (high - low), 0, 2).reshape(x.shape)
    np.testing.assert_allclose(normalise(x).numpy(), expected, atol=1e-6)


def test_unit_and_offset_do_not_matter():
    x = head((24, 24, 24))
    # Rounding of the input in float32, relative to a range of 170.
    torch.testing.assert_close(normalise(3e3 * x - 500), normalise(x), atol=1e-5, rtol=0)


def test_background_matters_little():
    x = (head((20, 20, 20)) - 20).clamp_min(0)
    wide = torch.nn.functional.pad(x, [10] * 6)
    inner = normalise(wide)[..., 10:-10, 10:-10, 10:-10]
    torch.testing.assert_close(inner, normalise(x), atol=1e-6, rtol=0)


def test_single_bright_voxels_are_clipped():
    x = head((20, 20, 20))
    calm = normalise(x)
    x[0, 0, 0, 0, 0] = 1e6
    spoiled = normalise(x)
    assert float(spoiled.max()) == 2
    torch.testing.assert_close(spoiled[..., 5:, 5:, 5:], calm[..., 5:, 5:, 5:], atol=0.02, rtol=0)


def test_each_image_of_a_batch_on_its_own():
    images = [head((16, 16), seed) * scale for seed, scale in ((0, 1), (1, 9), (2, 0.01))]
    together = normalise(torch.cat(images))
    torch.testing.assert_close(together, torch.cat([normalise(x) for x in images]))


@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_a_constant_image_becomes_0(value):
    assert not normalise(torch.full((2, 1, 8, 8), value)).any()


def test_large_images_are_thinned_out():
    x = head((80, 80, 80))
    assert x.numel() > 2**17
    # A pattern along the last axis is no pattern of the choice of voxels.
    x[..., ::4] += 30
    exact_high = np.percentile(x[x > x.mean()].numpy(), 99)
    exact_low = np.percentile(x.numpy(), 0.5)
    expected = ((x - exact_low) / (exact_high - exact_low)).clamp(0, 2)
    # 2**17 voxels estimate the percentiles to about a thousandth of the range.
    torch.testing.assert_close(normalise(x), expected, atol=3e-3, rtol=0)


def test_gradient_follows_the_percentiles():
    """Against central differences over the level of noise, which moves them."""
    generator = torch.Generator().manual_seed(1)
    x = head((12, 12)).double() / 150
    noise = torch.randn(12, 12, dtype=torch.float64, generator=generator)
    weights = torch.rand(12, 12, dtype=torch.float64, generator=generator)

    def value(sigma):
        return (weights * normalise(x + sigma * noise)).sum()

    sigma = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(sigma), sigma)
    h = 1e-6
    # The function is piecewise linear over a linear function.
    expected = (value(sigma.detach() + h) - value(sigma.detach() - h)) / (2 * h)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=0)
