import pytest
import torch

from l2s_pydra.augmentation.noise import Noise


def test_adds_noise_of_sigma_once(sample):
    """The image enters once: x + sigma n, not 2x + sigma n."""
    image = Noise(0.2).double()(sample)
    expected = sample.normalise(sample.image + 0.2 * sample.noise())
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-7)  # sigma is kept in float32


@pytest.mark.parametrize("sigma", [0.001, 0.1, 0.9])
def test_starts_at_sigma(sigma):
    assert Noise(sigma).describe()["sigma"] == pytest.approx(sigma, rel=1e-5)


def test_small_sigma_moves_relatively():
    """A step of theta is a step of log sigma, as long as sigma is small."""
    for sigma in (0.01, 0.05):
        noise = Noise(sigma)
        with torch.no_grad():
            noise.sigma_raw.add_(0.1)
        assert noise.describe()["sigma"] == pytest.approx(sigma * 1.105, rel=0.01)
