"""Blur against Bessel functions and SciPy's filters; draws against their distributions."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d, gaussian_filter
from scipy.special import ive

from l2s_pydra.augmentation.acquisition import Acquisition, _blurred, _kernels
from l2s_pydra.errors import ConfigError

TINY = 1e-4


def plain(**options):
    """Without spread and noise unless said."""
    still = {"gamma_spread": TINY, "blur_spread": TINY, "sigma": TINY}
    return Acquisition(**(still | options)).double()


@pytest.mark.parametrize("n", [2, 7, 31])
@pytest.mark.parametrize("width", [0.05, 0.4, 1.0, 2.5, 9.0])
def test_kernel_is_the_discrete_gaussian(n, width):
    (kernel,) = _kernels(n, torch.tensor([width], dtype=torch.float64))
    k = np.arange(-120, 121)
    weights = ive(np.abs(k), width**2)
    # The image is mirrored at its border, that voxel included.
    expected = correlate1d(np.eye(n), weights, axis=0, mode="reflect")
    np.testing.assert_allclose(kernel, expected, atol=1e-12)


@pytest.mark.parametrize("width", [0.01, 0.3, 1.7])
def test_variance_is_the_square_of_the_width_however_narrow(width):
    (kernel,) = _kernels(41, torch.tensor([width], dtype=torch.float64))
    voxels = torch.arange(41).double() - 20
    row = kernel[20]
    assert float(row.sum()) == pytest.approx(1)
    assert float((row * voxels.square()).sum()) == pytest.approx(width**2, rel=1e-9)


def test_blurs_add_up_and_keep_the_mean():
    a, b, both = _kernels(25, torch.tensor([0.7, 1.1, math.hypot(0.7, 1.1)]).double())
    torch.testing.assert_close(a @ b, both)
    torch.testing.assert_close(both.sum(0), torch.ones(25).double())
    torch.testing.assert_close(both, both.T)


@pytest.mark.parametrize("shape", [(21, 26), (12, 17, 14)])
def test_blur_goes_along_all_axes(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, *shape))
    # Noise that has been smoothed: there, samples of the Gaussian curve do the same.
    x = gaussian_filter(x, (0, 0, *[1.5] * len(shape)), mode="reflect")
    widths = [1.0, 2.0]
    found = _blurred(torch.tensor(x), torch.tensor(widths).double())
    for images, width, result in zip(x, widths, found, strict=True):
        for image, one in zip(images, result, strict=True):
            expected = gaussian_filter(image, width, mode="reflect", truncate=9)
            np.testing.assert_allclose(one, expected, atol=0.06 * x.std())


def test_is_power_then_blur_then_noise(sample):
    augmentation = Acquisition(
        gamma=1.4, gamma_spread=0.2, blur_voxels=0.8, blur_spread=0.4, sigma=0.07
    ).double()
    gammas, widths = (p.detach().numpy() for p in augmentation.draw(sample))
    assert gammas[0] != gammas[1]
    expected = []
    for image, gamma, width in zip(sample.image.numpy(), gammas, widths, strict=True):
        blurred = (image + 0.01) ** gamma - 0.01**gamma
        for axis in range(1, blurred.ndim):
            weights = ive(np.abs(np.arange(-40, 41)), width**2)
            blurred = correlate1d(blurred, weights, axis=axis, mode="reflect")
        expected.append(torch.tensor(blurred))
    noisy = torch.stack(expected) + 0.07 * sample.noise()
    # Starting values are kept in float32.
    torch.testing.assert_close(augmentation(sample), sample.normalise(noisy), rtol=0, atol=1e-7)


def test_draws_are_log_normal(new_sample):
    sample = new_sample(2, seeds=tuple(range(4000)), size=(1, 1))
    augmentation = Acquisition(gamma=0.7, gamma_spread=0.3, blur_voxels=1.2, blur_spread=0.6)
    gammas, widths = (p.detach().log() for p in augmentation.double().draw(sample))
    # Standard errors of mean and standard deviation: 0.6 / sqrt(4000) = 0.01.
    for logs, median, spread in ((gammas, 0.7, 0.3), (widths, 1.2, 0.6)):
        assert float(logs.mean()) == pytest.approx(math.log(median), abs=0.03)
        assert float(logs.std()) == pytest.approx(spread, rel=0.04)
        skewness = ((logs - logs.mean()) / logs.std()).pow(3).mean()
        assert float(skewness) == pytest.approx(0, abs=0.12)
    assert abs(np.corrcoef(gammas, widths)[0, 1]) < 0.05


def test_neutral_values_leave_the_image_alone(sample):
    found = plain(blur_voxels=TINY)(sample)
    torch.testing.assert_close(found, sample.normalise(sample.image), atol=1e-3, rtol=0)


def test_describes_what_was_given():
    given = {
        "gamma": 0.5, "gamma_spread": 0.2, "blur_voxels": 1.5, "blur_spread": 0.1, "sigma": 0.03,
    }  # fmt: skip
    described = Acquisition(**given).describe()
    assert described == pytest.approx(given, rel=1e-5)


@pytest.mark.parametrize("true", [0.3, 0.9, 2.2])
@pytest.mark.parametrize("start", [0.5, 1.5])
def test_width_is_recovered_from_images(true, start, sample):
    """The squared difference to images blurred by other code."""
    weights = ive(np.abs(np.arange(-80, 81)), true**2)
    target = sample.image.numpy()
    for axis in range(2, target.ndim):
        target = correlate1d(target, weights, axis=axis, mode="reflect")
    target = sample.normalise(torch.tensor(target))
    augmentation = plain(blur_voxels=start)
    optimizer = torch.optim.Adam([augmentation.blur_raw], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (augmentation(sample) - target).square().mean().backward()
        optimizer.step()
    # Spreads and noise are small but not zero.
    assert augmentation.describe()["blur_voxels"] == pytest.approx(true, rel=0.01)


def test_blur_and_noise_are_recovered_together_from_spectra(new_sample):
    """They are separate in the images: one shapes the spectrum, the other is its floor."""
    sample = new_sample(2, seeds=tuple(range(8)), size=(32, 32))

    def spectrum(image):
        return torch.fft.rfft2(image).abs().square().mean((0, 1)).add(1e-3).log()

    target = spectrum(plain(blur_voxels=1.2, sigma=0.08)(sample)).detach()
    augmentation = plain(blur_voxels=0.5, sigma=0.02)
    params = [augmentation.blur_raw, augmentation.sigma_raw]
    optimizer = torch.optim.Adam(params, lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (spectrum(augmentation(sample)) - target).square().mean().backward()
        optimizer.step()
    described = augmentation.describe()
    assert described["blur_voxels"] == pytest.approx(1.2, rel=0.01)
    assert described["sigma"] == pytest.approx(0.08, rel=0.01)


@pytest.mark.parametrize("blur_voxels", [0.02, 0.5, 3.5])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 3.5])
def test_gradient_equals_differences_over_the_whole_range(blur_voxels, gamma, sample):
    augmentation = Acquisition(blur_voxels=blur_voxels, gamma=gamma).double()
    weights = sample.noise()
    step = 1e-5
    params = dict(augmentation.named_parameters())
    value = (augmentation(sample) * weights).sum()
    gradients = torch.autograd.grad(value, list(params.values()))
    for (name, param), gradient in zip(params.items(), gradients, strict=True):
        values = []
        with torch.no_grad():
            for displacement in (step, -2 * step, step):
                param.add_(displacement)
                values.append(float((augmentation(sample) * weights).sum()))
        expected = (values[0] - values[1]) / (2 * step)
        assert float(gradient) == pytest.approx(expected, rel=1e-4, abs=1e-8), name
        assert gradient != 0, name


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 0.25}, {"gamma": -1.0}, {"gamma_spread": 0.5}, {"blur_voxels": 0.0},
        {"blur_voxels": 4.0}, {"blur_spread": 1.0}, {"sigma": 0.5},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="must lie strictly between"):
        Acquisition(**options)
