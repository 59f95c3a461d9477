"""Appearance against closed forms, SciPy and brute force."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter1d

from l2s_pydra.synthesis.intensity import (
    block_means,
    gamma,
    mixture,
    pool,
    soft_labels,
    thick_slices,
    thickness_matrix,
)

SIZES = [(12, 18), (6, 12, 18)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("size", SIZES)
def test_mixture_is_mean_plus_spread_times_noise(size, generator):
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


@pytest.mark.parametrize(("n", "thickness"), [(40, 1.5), (40, 3.0), (41, 6.2), (5, 10.0), (2, 2.0)])
def test_thick_slices_keep_constants(n, thickness):
    matrix = thickness_matrix(n, thickness)
    torch.testing.assert_close(matrix.sum(1), torch.ones(n))
    assert float(matrix.min()) >= 0


def test_thin_slices_are_left_alone():
    torch.testing.assert_close(thickness_matrix(9, 1.0), torch.eye(9))
    torch.testing.assert_close(thickness_matrix(9, 0.2), torch.eye(9))


@pytest.mark.parametrize("thickness", [2.0, 4.0, 6.0])
def test_thick_slices_attenuate_what_they_cannot_show(thickness):
    n = 96
    x = np.arange(n)

    def remaining(frequency):
        wave = torch.tensor(np.cos(2 * np.pi * frequency * x), dtype=torch.float32)
        inner = slice(n // 6, -n // 6)
        return float((thickness_matrix(n, thickness) @ wave)[inner].std() / wave[inner].std())

    nyquist = 1 / (2 * thickness)
    # A Gaussian of this full width at half maximum leaves exp(-(pi s)^2 / (4 ln 2)) of the
    # frequency s / thickness, and linear interpolation sinc(s)^2 of that.
    slow = np.exp(-((np.pi / 10) ** 2) / (4 * np.log(2))) * np.sinc(1 / 10) ** 2
    assert remaining(nyquist / 5) == pytest.approx(slow, abs=0.01)
    assert remaining(nyquist / 5) > remaining(nyquist / 2) > remaining(0.9 * nyquist)
    assert remaining(min(3 * nyquist, 0.5)) < 0.25


@pytest.mark.parametrize("size", SIZES)
def test_thick_slices_act_along_their_axis(size, generator):
    x = torch.randn(2, 1, *size, generator=generator)
    for axis, n in enumerate(size):
        matrix = thickness_matrix(n, 2.7)
        expected = torch.movedim(torch.movedim(x, axis + 2, -1) @ matrix.T, -1, axis + 2)
        torch.testing.assert_close(thick_slices(x, axis, 2.7), expected, atol=1e-6, rtol=1e-5)
