import math

import pytest
import torch

from l2s_pydra.augmentation._fields import smooth_field, spline_gain
from l2s_pydra.augmentation.noise_bias import NoiseBias

TINY = 1e-4


def _field(sample, exponents):
    """What multiplies the image, without noise."""
    augmentation = NoiseBias(sigma=TINY, exponents=exponents).double()
    ones = type(sample)(torch.ones_like(sample.image), sample.groups, sample.seeds)
    return ((augmentation(ones) - 0.05) / 0.9).detach()


def test_describes_its_starting_values():
    described = NoiseBias(0.2, (0.1, 0.2, 0.3)).describe()
    assert described["sigma"] == pytest.approx(0.2)
    assert [described[f"exponent_{k}"] for k in (2, 4, 8)] == pytest.approx([0.1, 0.2, 0.3])
    u = torch.linspace(0.5, 2, 100001, dtype=torch.float64)
    expected = math.hypot(0.1, 0.2, 0.3) * float(u.log().std())
    assert described["log_bias_std"] == pytest.approx(expected, rel=1e-4)


def test_field_lies_between_the_powers_of_the_range(sample):
    field = _field(sample, (0.9, 0.9, 0.9))
    assert field.min() > 0.5**2.7
    assert field.max() < 2**2.7
    assert field.std() > 0.1


def test_exponents_near_zero_leave_the_image(sample):
    torch.testing.assert_close(
        _field(sample, (TINY, TINY, TINY)), torch.ones_like(sample.image), rtol=0, atol=2e-3
    )


def test_field_of_more_points_is_rougher(new_sample):
    sample = new_sample(2, seeds=tuple(range(8)), size=(32, 32))
    roughness = []
    for i in range(3):
        exponents = [TINY] * 3
        exponents[i] = 0.9
        roughness.append(float(_field(sample, tuple(exponents)).log().diff(dim=-1).std()))
    assert roughness == sorted(roughness)


@pytest.mark.parametrize("size", [(20,), (9, 14), (5, 6, 7)])
def test_spline_of_constant_points_is_constant(size):
    points = torch.full((2, *[4] * len(size)), 3.0).double()
    field = smooth_field(points, size)
    assert field.shape == (2, 1, *size)
    torch.testing.assert_close(field, torch.full_like(field, 3.0))


def test_spline_equals_scipy_inside():
    """Away from the ends, where control points are repeated."""
    from scipy.interpolate import BSpline

    points = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)).double()
    field = smooth_field(points, (111,))[0, 0]
    spline = BSpline(torch.arange(-2, 14).double().numpy(), points[0].numpy(), 3)
    position = torch.linspace(0, 11, 111).double()
    inside = (position >= 1) & (position <= 10)
    expected = torch.from_numpy(spline(position[inside].numpy()))
    torch.testing.assert_close(field[inside], expected, rtol=0, atol=1e-6)


def test_spline_gain_is_the_root_mean_square():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 4, 4, generator=generator, dtype=torch.float64)
    field = smooth_field(points, (10, 13)) / spline_gain((10, 13), 4)
    # 4000 fields of about 16 degrees of freedom: standard error below 1 %.
    assert float(field.square().mean()) == pytest.approx(1, abs=0.03)
