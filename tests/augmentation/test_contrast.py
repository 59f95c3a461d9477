import pytest
import torch

from l2s_pydra.augmentation.contrast import Contrast, _mixture
from l2s_pydra.errors import ConfigError

STATISTICS = {"thalamus": (0.55, 0.06), "cortex": (0.42, 0.09), "white-matter": (0.83, 0.04)}
TINY = 1e-4


def test_start_matches_the_moments_of_the_labelled_images(new_sample, group_names):
    """Means and standard deviations, measured in generated images as in real ones."""
    sample = new_sample(2, seeds=tuple(range(150)), size=(16, 16))
    augmentation = Contrast(group_names, bias=TINY, noise=0.02).double()
    augmentation.start(STATISTICS)
    image = (augmentation(sample).detach() - 0.05) / 0.9
    for index, name in enumerate(group_names[1:], start=1):
        # Only voxels of one group alone: partial volume has other moments.
        pure = sample.finish((sample.groups == index).double()[:, None]) == 1
        means = torch.stack([x[p].mean() for x, p in zip(image, pure, strict=True) if p.any()])
        stds = torch.stack([x[p].std() for x, p in zip(image, pure, strict=True) if p.sum() > 9])
        mean, std = STATISTICS[name]
        # Between images the mean varies by 0.05: standard error 0.05 / sqrt(150) = 0.004.
        assert float(means.mean()) == pytest.approx(mean, abs=0.015), name
        assert float(stds.square().mean().sqrt()) == pytest.approx(std, rel=0.05), name


def test_start_describes_what_was_given_and_leaves_the_rest(group_names):
    augmentation = Contrast(group_names, noise=0.02)
    augmentation.start({"cortex": (0.4, 0.1), "no such group": (0.1, 0.1)})
    described = augmentation.describe()
    assert described["mean/cortex"] == pytest.approx(0.4, abs=1e-6)
    assert described["spread/cortex"] == pytest.approx((0.1**2 - 0.02**2) ** 0.5, abs=1e-6)
    assert described["mean/thalamus"] == pytest.approx(0.5)
    assert described["variation/thalamus"] > described["variation/cortex"]


@pytest.mark.parametrize("moments", [(0.0, 0.0), (1.3, 0.8), (-0.1, 1e-9)])
def test_start_survives_extreme_moments(moments, group_names, sample):
    augmentation = Contrast(group_names).double()
    augmentation.start(dict.fromkeys(group_names, moments))
    image = augmentation(sample)
    gradients = torch.autograd.grad(image.square().sum(), list(augmentation.parameters()))
    assert all((gradient != 0).all() for gradient in gradients)


def test_outside_is_exactly_zero_before_the_noise(sample, group_names):
    augmentation, seen = Contrast(group_names).double(), []

    class Watched(type(sample)):
        def finish(self, fine):
            seen.append(fine)
            return super().finish(fine)

    augmentation(Watched(sample.image, sample.groups, sample.seeds))
    (fine,) = seen
    outside = sample.groups[:, None] == 0
    assert (fine[outside] == 0).all()
    assert (fine[~outside] != 0).any()


def test_ignores_the_finished_image(sample, group_names):
    augmentation = Contrast(group_names).double()
    other = type(sample)(torch.rand_like(sample.image), sample.groups, sample.seeds)
    assert augmentation.replaces_intensities
    torch.testing.assert_close(augmentation(sample), augmentation(other))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_mixture_equals_indexing(dtype):
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(4, (2, 5, 6), generator=generator).to(dtype)
    means, stds = torch.randn(2, 2, 4, generator=generator)
    noise = torch.randn(2, 1, 5, 6, generator=generator)
    image = torch.arange(2)[:, None, None]
    expected = means[image, groups.long()] + stds[image, groups.long()] * noise[:, 0]
    torch.testing.assert_close(_mixture(groups, means, stds, noise), expected[:, None])


def test_needs_a_group():
    with pytest.raises(ConfigError, match="needs a group"):
        Contrast(("outside",))
