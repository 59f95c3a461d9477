"""Ways to look at an image."""

import pytest
import torch

from l2s_pydra.segmentation.views import SHIFT, View, views


@pytest.fixture
def image():
    return 2 * torch.rand(9, 8, 7, generator=torch.Generator().manual_seed(0))


def test_the_first_is_the_image_as_it_is(image):
    (plain,) = views(1, mirror=False, seed=3)
    assert plain == View()
    assert torch.equal(plain(image), image)
    plain, mirrored = views(1, mirror=True, seed=3)
    assert torch.equal(mirrored(image), image.flip(0))


def test_a_view_gives_the_same_each_time(image):
    view = View(gamma=1.2, noise=0.02, seed=7)
    before = image.clone()
    assert torch.equal(view(image), view(image))
    assert torch.equal(image, before)
    assert not torch.equal(view(image), View(gamma=1.2, noise=0.02, seed=8)(image))


def test_intensities_follow_gamma_and_noise(image):
    torch.testing.assert_close(View(gamma=0.5)(image), image.sqrt())
    noisy = View(noise=0.02)(image)
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 2
    inner = (image > 0.2) & (image < 1.8)
    assert float((noisy - image)[inner].std()) == pytest.approx(0.02, rel=0.2)


def test_mirroring_comes_last(image):
    view, mirrored = list(views(2, mirror=True, seed=0))[2:]
    assert mirrored.mirrored
    assert torch.equal(mirrored(image), view(image).flip(0))


def test_draws_are_seeded_and_of_their_ranges():
    many = list(views(40, mirror=False, seed=1))
    assert many == list(views(40, mirror=False, seed=1))
    assert many[:5] == list(views(5, mirror=False, seed=1))
    assert many[1:] != list(views(40, mirror=False, seed=2))[1:]
    assert {s for view in many for s in view.shift} == set(range(SHIFT + 1))
    assert all(0 <= view.noise <= 0.03 and 0.4 < view.gamma < 2.5 for view in many)
    assert all(view.shift[2] == 0 for view in views(40, mirror=False, seed=1, ndim=2))
