"""Appearance against closed forms, SciPy and brute force."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter, uniform_filter1d

from l2s_pydra.synthesis import intensity
from l2s_pydra.synthesis.intensity import (
    block_means,
    dilate,
    gamma,
    mixture,
    pool,
    soft_labels,
)

SIZES = [(12, 18), (6, 12, 18)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
def test_mixture_is_mean_plus_spread_times_noise(size, generator, monkeypatch):
    monkeypatch.setattr(intensity, "_PIECE", 100)
    groups = torch.randint(0, 4, size, generator=generator)
    means, stds = torch.tensor([0.0, 0.3, 0.5, 0.9]), torch.tensor([0.0, 0.1, 0.0, 0.2])
    noise = torch.randn(size, generator=generator)
    found = mixture(groups.to(torch.uint8), means, stds, noise)
    torch.testing.assert_close(found, means[groups] + stds[groups] * noise)
    assert not found[groups == 0].any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pooling_averages_blocks(size, factor, generator):
    x = torch.randn(2, 1, *size, generator=generator)
    corners = itertools.product(range(factor), repeat=len(size))
    parts = [x[(..., *(slice(c, None, factor) for c in corner))] for corner in corners]
    torch.testing.assert_close(pool(x, factor), torch.stack(parts).mean(0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_block_means_are_a_running_mean(size, factor, generator):
    x = torch.randn(1, 1, *size, generator=generator)
    expected = x[0, 0].numpy()
    for axis in range(len(size)):
        # SciPy centres the window, ours starts at the voxel.
        origin = -((factor - 1) // 2) if factor % 2 else -(factor // 2)
        expected = uniform_filter1d(expected, factor, axis, mode="nearest", origin=origin)
    found = block_means(x, factor)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)
    every = (..., *[slice(None, None, factor)] * len(size))
    torch.testing.assert_close(found[every], pool(x, factor))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_soft_labels_count_the_voxels_of_each_class(size, factor, generator):
    channels = torch.randint(0, 5, size, generator=generator)
    found = soft_labels(channels.to(torch.uint8), 6, factor)
    hot = torch.stack([(channels == k).float() for k in range(6)])
    torch.testing.assert_close(found, pool(hot[None], factor)[0])
    torch.testing.assert_close(found.sum(0), torch.ones(found.shape[1:]))


def test_gamma_bends_and_keeps_black():
    x = torch.linspace(0, 1.5, 7).view(1, 1, 7, 1).repeat(3, 1, 1, 1)
    found = gamma(x, [0.5, 1.0, 2.0])
    assert not found[:, :, 0].any()
    # The offset of 0.01 keeps the slope finite; elsewhere it hardly shows.
    torch.testing.assert_close(found[0], x[0].sqrt(), atol=0.1, rtol=0)
    torch.testing.assert_close(found[1], x[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2], x[2].square(), atol=0.04, rtol=0)
    assert gamma(x, [1, 1, 1]) is x


def test_gamma_has_a_finite_slope_everywhere():
    x = torch.tensor([-1.0, 0.0, 1e-6, 1.0]).view(1, 1, 4, 1).requires_grad_()
    gamma(x, [0.3]).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("radius", [0, 1, 3])
def test_dilation_is_that_of_a_cube(size, radius, generator):
    mask = torch.rand(size, generator=generator) > 0.97
    expected = maximum_filter(mask.numpy(), 2 * radius + 1, mode="constant")
    np.testing.assert_array_equal(dilate(mask, radius), expected)
