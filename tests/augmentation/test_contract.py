"""What holds for every augmentation, found by name."""

import math

import pytest
import torch

from l2s_pydra.augmentation import Augmentation, available, build_augmentation
from l2s_pydra.errors import ConfigError


@pytest.fixture(params=[*available(), "fog:build"])
def augmentation(request, sample, group_names, own):
    torch.manual_seed(0)
    ndim = sample.image.ndim - 2
    built = build_augmentation(request.param, ndim=ndim, group_names=group_names)
    return built.double()


def own_module(augmentation):
    """Name that an augmentation is built by."""
    module = augmentation.__module__
    return "fog:build" if module == "fog" else module.rpartition(".")[2]


def _weights(sample):
    """A fixed linear functional of the image."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sample.image.shape, generator=generator, dtype=torch.float64)


def test_available_are_the_five_of_the_method():
    assert set(available()) >= {"contrast", "noise", "noise_bias", "noise_range", "unet"}


def test_keeps_shape_dtype_and_graph(augmentation, sample):
    image = augmentation(sample)
    assert isinstance(augmentation, Augmentation)
    assert image.shape == sample.image.shape
    assert image.dtype == sample.image.dtype
    assert image.requires_grad
    assert torch.isfinite(image).all()


def test_works_on_sides_that_are_no_power_of_two(augmentation, sample, new_sample):
    size = (9, 7) if sample.image.ndim == 4 else (5, 7, 3)
    odd = new_sample(len(size), size=size)
    assert augmentation(odd).shape == odd.image.shape


def test_same_sample_same_image_whatever_the_global_generator(augmentation, sample):
    torch.manual_seed(1)
    first = augmentation(sample)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, augmentation(sample))
    assert torch.equal(before, torch.get_rng_state())


def test_each_image_depends_on_its_own_seed_alone(augmentation, sample, new_sample):
    ndim = sample.image.ndim - 2
    swapped = augmentation(new_sample(ndim, seeds=(4, 3)))
    alone = augmentation(new_sample(ndim, seeds=(4,)))
    both = augmentation(sample)
    torch.testing.assert_close(both.flip(0), swapped)
    torch.testing.assert_close(both[1:], alone)
    other = augmentation(new_sample(ndim, seeds=(5, 6)))
    assert not torch.allclose(both, other)


def test_theta_can_be_set_to_what_was_described(augmentation, sample, group_names):
    """As six digits in JSON; of other values than those it starts with."""
    with torch.no_grad():
        for number, param in enumerate(augmentation.parameters()):
            param.add_(0.3 * torch.sin(torch.arange(param.numel()) + number).view(param.shape))
    theta = {name: float(f"{value:.6g}") for name, value in augmentation.describe().items()}
    name = own_module(augmentation)
    other = build_augmentation(name, ndim=sample.image.ndim - 2, group_names=group_names).double()
    if name == "unet":
        with pytest.raises(ConfigError, match="cannot be set from numbers"):
            other.restore(theta)
        return
    other.restore({**theta, "mean/nowhere": 0.5})
    assert other.describe() == pytest.approx(theta, rel=1e-5)
    torch.testing.assert_close(other(sample), augmentation(sample), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r"none of the values given|no group of the label maps"):
        other.restore({"unknown": 0.1})
    high = next(name for name in theta if name != "log_bias_std")
    with pytest.raises(ConfigError, match="must lie strictly between"):
        other.restore({**theta, high: 50.0})


def test_gradient_reaches_every_parameter(augmentation, sample):
    (augmentation(sample) * _weights(sample)).sum().backward()
    for name, param in augmentation.named_parameters():
        assert param.grad is not None, name
        assert (param.grad != 0).all() or "unet" in name, name
        assert param.grad.abs().sum() > 0, name


def test_gradient_equals_finite_differences(augmentation, sample):
    """One entry of each parameter, central differences in float64: error O(h^2)."""
    weights, h = _weights(sample), 1e-5
    params = dict(augmentation.named_parameters())
    value = (augmentation(sample) * weights).sum()
    gradients = torch.autograd.grad(value, list(params.values()))
    for (name, param), gradient in zip(params.items(), gradients, strict=True):
        i = param.numel() // 2
        values = []
        for displacement in (h, -2 * h):
            with torch.no_grad():
                param.view(-1)[i] += displacement
                values.append((augmentation(sample) * weights).sum())
        with torch.no_grad():
            param.view(-1)[i] += h
        numerical = float(values[0] - values[1]) / (2 * h)
        found = float(gradient.reshape(-1)[i])
        assert math.isclose(found, numerical, rel_tol=1e-5, abs_tol=1e-7), name


@pytest.mark.parametrize("sign", [1, -1])
def test_stays_valid_after_huge_optimiser_steps(augmentation, sample, sign):
    optimizer = torch.optim.Adam(augmentation.parameters(), lr=3.0)
    for _ in range(5):
        optimizer.zero_grad()
        (sign * augmentation(sample).square().mean()).backward()
        optimizer.step()
        assert torch.isfinite(augmentation(sample)).all()
    for name, value in augmentation.describe().items():
        assert math.isfinite(value), name
        assert value >= 0, name


def test_describes_in_plain_floats_that_follow_theta(augmentation, sample):
    augmentation(sample)
    before = augmentation.describe()
    assert before
    assert all(type(value) is float for value in before.values())
    with torch.no_grad():
        for param in augmentation.parameters():
            param.add_(0.3)
    augmentation(sample)
    after = augmentation.describe()
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_start_keeps_it_valid(augmentation, sample, group_names):
    augmentation.start(dict.fromkeys(group_names[1:], (0.5, 0.1)))
    assert torch.isfinite(augmentation(sample)).all()


def test_theta_comes_back_from_its_state(augmentation, sample, group_names):
    with torch.no_grad():
        for param in augmentation.parameters():
            param.add_(0.1)
    ndim = sample.image.ndim - 2
    name = own_module(augmentation)
    again = build_augmentation(name, ndim=ndim, group_names=group_names).double()
    again.load_state_dict(augmentation.state_dict())
    assert torch.equal(augmentation(sample), again(sample))


def test_unknown_name_lists_the_available(group_names):
    with pytest.raises(ConfigError, match=r"unknown augmentation 'nois'; available: .*noise, "):
        build_augmentation("nois", ndim=2, group_names=group_names)


@pytest.mark.parametrize("name", ["base", "_fields"])
def test_modules_that_are_no_augmentation_are_not_offered(name, group_names):
    with pytest.raises(ConfigError, match="unknown augmentation"):
        build_augmentation(name, ndim=2, group_names=group_names)


def test_unknown_option_lists_the_available(group_names):
    with pytest.raises(ConfigError, match="has no option 'sigm'; available: sigma"):
        build_augmentation("noise", ndim=2, group_names=group_names, options={"sigm": 1})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("noise", {"sigma": -0.1}),
        ("noise", {"sigma": 0}),
        ("noise_range", {"sigma_min": 0.3, "sigma_max": 0.2}),
        ("noise_bias", {"exponents": (0.5, 1.0, 0.2)}),
        ("contrast", {"spread": 0.7}),
    ],
)
def test_out_of_range_option_is_refused(name, options, group_names):
    with pytest.raises(ConfigError, match="must lie strictly between"):
        build_augmentation(name, ndim=2, group_names=group_names, options=options)
