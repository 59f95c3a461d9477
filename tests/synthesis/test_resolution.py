"""Slices against quadrature, SciPy's filters and interpolation, and their moments."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.ndimage import gaussian_filter1d

from l2s_pydra.errors import ConfigError, ShapeError
from l2s_pydra.synthesis.resolution import acquisition_matrices, degrade, restore

SHAPES = [(20, 31), (17, 24, 19)]
FWHM = 2 * math.sqrt(2 * math.log(2))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def centers(n, m):
    """The field of view [-1/2, n - 1/2] in m equal parts."""
    edges = np.linspace(-0.5, n - 0.5, m + 1)
    return (edges[1:] + edges[:-1]) / 2


def moments(down, n):
    """Mean and variance of each row that does not touch the border."""
    rows = down.double().numpy()
    voxels = np.arange(n)
    whole = (rows[:, [0, -1]] < 1e-7).all(1)
    mean = rows @ voxels
    variance = (rows * (voxels - mean[:, None]) ** 2).sum(1)
    return mean[whole], variance[whole], centers(n, len(rows))[whole]


@pytest.mark.parametrize("n", [40, 160])
@pytest.mark.parametrize("spacing", [1, 1.3, 2, 3.7, 6])
@pytest.mark.parametrize("thickness", [1.6, 2.2, 5])
def test_slices_are_centred_and_as_thick_as_said_wherever_they_fall(n, spacing, thickness):
    down, _ = acquisition_matrices(n, spacing, thickness)
    mean, variance, expected = moments(down, n)
    assert len(mean)
    np.testing.assert_allclose(mean, expected, atol=2e-5)  # float32 of up to 160
    # A voxel has the variance of a Gaussian of width 1, and the whole that of the thickness.
    np.testing.assert_allclose(variance + 1 / FWHM**2, (thickness / FWHM) ** 2, rtol=1e-3)


def test_thin_slices_between_voxels_are_interpolated():
    down, _ = acquisition_matrices(20, 2, 1)
    expected = np.zeros((10, 20))
    for i in range(10):
        expected[i, 2 * i : 2 * i + 2] = 0.5
    np.testing.assert_allclose(down, expected, atol=1e-6)
    _, variance, _ = moments(acquisition_matrices(160, 3.3, 1.0)[0], 160)
    assert variance.max() <= 0.25 + 1e-6


def test_weights_are_those_of_interpolated_voxels_under_a_gaussian():
    n, thickness = 33, 4.0
    down, _ = acquisition_matrices(n, 2.6, thickness)
    center = centers(n, len(down))[6]
    rows = down[6].double().numpy()
    # Variance of the hats is 1/6 where the Gaussian is not narrow.
    sigma = math.sqrt((thickness**2 - 1) / FWHM**2 - 1 / 6)
    for voxel in range(10, 23):
        expected, _ = integrate.quad(
            lambda x, v=voxel: max(0, 1 - abs(x - v)) * stats.norm.pdf(x, center, sigma),
            voxel - 1, voxel + 1, points=[voxel],
        )  # fmt: skip
        assert rows[voxel] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("thickness", [3.0, 7.0])
def test_overlapping_slices_at_every_voxel_are_a_gaussian_filter(thickness, rng):
    x = rng.standard_normal((2, 60))
    expected = gaussian_filter1d(x, math.sqrt((thickness**2 - 1) / FWHM**2), truncate=8)
    found = degrade(torch.tensor(x), (1,), (thickness,))
    # The tent below the Gaussian changes its shape a little, not its variance.
    np.testing.assert_allclose(found[:, 15:-15], expected[:, 15:-15], atol=0.02)


@pytest.mark.parametrize(("n", "spacing"), [(20, 1), (20, 1.5), (20, 6), (5, 9), (2, 1.7)])
def test_interpolation_back_is_that_of_numpy(n, spacing, rng):
    _, up = acquisition_matrices(n, spacing, 1)
    m = max(2, round(n / spacing))
    assert up.shape == (n, m)
    values = rng.standard_normal(m)
    expected = np.interp(np.arange(n), centers(n, m), values)
    np.testing.assert_allclose(up.double() @ torch.tensor(values), expected, atol=1e-6)


@pytest.mark.parametrize(("n", "spacing", "thickness"), [(9, 1, 1), (31, 4.4, 9), (8, 20, 30)])
def test_rows_sum_to_one_and_are_not_negative(n, spacing, thickness):
    for matrix in acquisition_matrices(n, spacing, thickness):
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))
        assert float(matrix.min()) >= 0
        assert matrix.dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_the_products_of_the_matrices(shape, rng):
    ndim = len(shape)
    spacing, thickness = (2.2, 1.0, 3.5)[:ndim], (1.4, 2.0, 3.5)[:ndim]
    x = torch.tensor(rng.standard_normal((2, *shape)), dtype=torch.float32)
    pairs = [acquisition_matrices(*a) for a in zip(shape, spacing, thickness, strict=True)]
    letters, primes = "abc"[:ndim], "xyz"[:ndim]
    low = x
    for (down, _), letter, prime in zip(pairs, letters, primes, strict=True):
        mixed = letters.replace(letter, prime)
        low = torch.einsum(f"{prime}{letter},n{letters}->n{mixed}", down, low)
        letters = mixed
    found = degrade(x, spacing, thickness)
    torch.testing.assert_close(found, low, atol=1e-5, rtol=1e-5)
    assert found.shape[1] == round(shape[0] / 2.2)
    back = low
    for (_, up), letter, prime in zip(pairs, "abc", primes, strict=False):
        mixed = letters.replace(prime, letter)
        back = torch.einsum(f"{letter}{prime},n{letters}->n{mixed}", up, back)
        letters = mixed
    torch.testing.assert_close(restore(found, shape), back, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_ramps_stay_where_they_are(shape):
    """Nothing is shifted against the labels."""
    axes = [torch.arange(n, dtype=torch.float64) for n in shape]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    spacing = (3.3, 1.7, 2.6)[: len(shape)]
    found = restore(degrade(x, spacing, spacing), shape)
    inner = (slice(None), *[slice(6, -6)] * len(shape))
    # Thousandths of a voxel come from profiles cut at the border.
    torch.testing.assert_close(found[inner], x[inner], atol=1e-3, rtol=0)


def test_full_resolution_leaves_the_image_alone(rng):
    x = torch.tensor(rng.standard_normal((1, 6, 7, 5)))
    assert degrade(x, (1, 1, 1), (1, 1, 1)) is x
    assert restore(x, (6, 7, 5)) is x


@pytest.mark.parametrize("shape", [(6, 9), (5, 6, 7)])
def test_gradient_equals_differences(shape, rng):
    ndim = len(shape)

    def acquire(x):
        return restore(degrade(x, (1, 2, 3.1)[:ndim], (2, 1, 3)[:ndim]), shape)

    x = torch.tensor(rng.standard_normal((2, *shape)), requires_grad=True)
    assert torch.autograd.gradcheck(acquire, (x,))


@pytest.mark.parametrize("spacing", [0.9, math.nan, math.inf])
def test_less_than_a_voxel_is_refused(spacing):
    with pytest.raises(ConfigError, match="spacing must be at least 1 voxel"):
        acquisition_matrices(10, spacing, 1)
    with pytest.raises(ConfigError, match="thickness must be at least 1 voxel"):
        degrade(torch.zeros(1, 10, 10), (1, 1), (1, spacing))


def test_axes_have_to_fit():
    with pytest.raises(ShapeError, match="2 axes need as many"):
        degrade(torch.zeros(1, 4, 4), (1, 1, 1), (1, 1))
    with pytest.raises(ShapeError, match="does not fit"):
        restore(torch.zeros(1, 4, 4), (4, 3))
    with pytest.raises(ShapeError, match="does not fit"):
        restore(torch.zeros(1, 4, 4), (4, 4, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_stays_on_the_device_of_the_image(shape):
    """Tensors without data refuse to meet those of another device."""
    x = torch.zeros(1, *shape, device="meta")
    low = degrade(x, (2.5, 1, 4)[: len(shape)], (2,) * len(shape))
    assert restore(low, shape).device == x.device
    assert {matrix.device for matrix in acquisition_matrices(9, 2, 2, "meta")} == {x.device}
