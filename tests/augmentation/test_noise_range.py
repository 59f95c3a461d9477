import pytest
import torch

from l2s_pydra.augmentation.noise_range import NoiseRange


def test_starts_at_the_range():
    described = NoiseRange(0.03, 0.3).describe()
    assert described == {"sigma_min": pytest.approx(0.03), "sigma_max": pytest.approx(0.3)}


@pytest.mark.parametrize("raw", [(-30.0, 5.0), (30.0, -5.0), (4.0, 4.0)])
def test_ends_are_ordered_wherever_theta_goes(raw):
    augmentation = NoiseRange()
    with torch.no_grad():
        augmentation.min_raw.fill_(raw[0])
        augmentation.max_raw.fill_(raw[1])
    described = augmentation.describe()
    assert 0 <= described["sigma_min"] <= described["sigma_max"] <= 1


def test_levels_fill_the_range_and_differ_between_images(new_sample):
    sample = new_sample(2, seeds=tuple(range(60)), size=(4, 4))
    augmentation = NoiseRange(0.1, 0.3).double()
    residual = (augmentation(sample) - sample.normalise(sample.image)) / 0.9
    levels = (residual / sample.noise()).detach().flatten(1)
    torch.testing.assert_close(levels.std(1), torch.zeros(60).double(), rtol=0, atol=1e-6)
    assert 0.1 <= levels.min() < 0.12
    assert 0.28 < levels.max() <= 0.3
