"""Labels that do not lie on what the image shows are noticed; labels in their place are not."""

import numpy as np
import pytest

from l2s_pydra.steps.alignment import fit_of_labels, two_clusters

SHAPE, SPACING = (64, 72, 60), (2.5, 2.5, 2.5)
GROUPS = (0, 1, 2, 3)


def ellipsoid(center, radii):
    grid = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii, strict=True)) < 1


@pytest.fixture(scope="module")
def anatomy():
    """A head: cortex, white matter and cerebellum in a skull, a little left of the middle."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[ellipsoid((29, 36, 32), (19, 23, 17))] = 1
    labels[ellipsoid((29, 37, 33), (14, 17, 11))] = 2
    labels[ellipsoid((29, 20, 14), (11, 9, 7))] = 3
    skull = ellipsoid((29, 35, 30), (26, 31, 26))
    return labels, skull


def image_of(anatomy, intensities, *, stripped=False, seed=0):
    labels, skull = anatomy
    image = np.array((0.0, *intensities[1:]))[labels]
    if not stripped:
        image[skull & (labels == 0)] = intensities[0]
    noise = np.random.default_rng(seed).normal(0, 0.04, SHAPE)
    return (
        image + np.where(skull & ((labels > 0) | (not stripped)), noise, np.abs(noise) / 4)
    ) * 100


CONTRASTS = {
    "T1w": (0.5, 0.6, 0.9, 0.65),
    "T2w": (0.4, 0.7, 0.45, 0.6),
    "FLAIR": (0.9, 0.6, 0.45, 0.5),
    "dark": (0.9, 0.15, 0.3, 0.1),
}


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("stripped", [True, False])
def test_labels_in_their_place(anatomy, contrast, stripped):
    image = image_of(anatomy, CONTRASTS[contrast], stripped=stripped)
    fit = fit_of_labels(image, anatomy[0], SPACING, GROUPS)
    assert not fit.elsewhere
    assert not fit.on_background
    assert fit.move_voxels == (0, 0, 0)
    assert fit.mirror is None


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("stripped", [True, False])
@pytest.mark.parametrize("shift", [(8, 0, 0), (0, -10, 0), (0, 6, 8)])
def test_shifted_labels(anatomy, contrast, stripped, shift):
    image = image_of(anatomy, CONTRASTS[contrast], stripped=stripped)
    fit = fit_of_labels(image, np.roll(anatomy[0], shift, (0, 1, 2)), SPACING, GROUPS)
    assert fit.elsewhere
    # Back to where they were, to one voxel of the coarse grid: two of these.
    np.testing.assert_allclose(fit.move_voxels, np.negative(shift), atol=2)
    assert fit.mirror is None


@pytest.mark.parametrize("axis", [0, 2])
def test_flipped_labels(anatomy, axis):
    """Left and right look alike, but the head is not in the middle of the field of view."""
    image = image_of(anatomy, CONTRASTS["T1w"], stripped=True)
    fit = fit_of_labels(image, np.flip(anatomy[0], axis), SPACING, GROUPS)
    assert fit.elsewhere
    assert (fit.mirror, fit.move_voxels) == (axis, (0, 0, 0))


def test_two_structures_elsewhere_need_a_better_fit_of_the_whole(anatomy):
    """Of two structures alike in intensity, one in the air fits well, and means nothing."""
    image = image_of(anatomy, (0.5, 0.6, 0.6, 0.6))
    labels = np.where(anatomy[0] == 2, 0, anatomy[0])
    fit = fit_of_labels(image, labels, SPACING, GROUPS)
    assert not fit.telling
    assert not fit.elsewhere


def test_a_mirrored_brain_in_the_middle_is_not_seen(anatomy):
    labels = np.roll(anatomy[0], 2, 0)
    image = np.roll(image_of(anatomy, CONTRASTS["T1w"], stripped=True), 2, 0)
    mirrored = np.roll(np.flip(labels, 0), -1, 0)
    fit = fit_of_labels(image, mirrored, SPACING, GROUPS)
    assert not fit.elsewhere


def test_a_shift_below_a_voxel_of_the_coarse_grid_is_not_seen(anatomy):
    image = image_of(anatomy, CONTRASTS["T1w"], stripped=True)
    assert not fit_of_labels(image, np.roll(anatomy[0], 1, 1), SPACING, GROUPS).elsewhere


def test_labels_on_the_background(anatomy):
    image = image_of(anatomy, CONTRASTS["T1w"], stripped=True)
    image[image < 20] = 0
    labels = np.zeros(SHAPE, np.uint8)
    labels[50:62, 55:70, 45:58] = 1
    fit = fit_of_labels(image, labels, SPACING, GROUPS)
    assert fit.on_background
    assert (fit.dark, fit.empty) == (1, 1)


def test_dark_structures_in_a_bright_head_are_not_on_the_background(anatomy):
    """The ventricles of a FLAIR image."""
    image = image_of(anatomy, CONTRASTS["FLAIR"])
    labels = np.zeros(SHAPE, np.uint8)
    labels[ellipsoid((29, 37, 33), (5, 8, 4))] = 1
    image[labels > 0] = 1.0
    fit = fit_of_labels(image, labels, SPACING, GROUPS)
    assert fit.dark > 0.9
    assert not fit.on_background
    assert not fit.elsewhere


def test_few_voxels_say_nothing(anatomy):
    labels = np.zeros(SHAPE, np.uint8)
    labels[30:32, 30:32, 30:32] = 1
    assert fit_of_labels(image_of(anatomy, CONTRASTS["T1w"]), labels, SPACING, GROUPS) is None


def test_explained_variance_is_that_of_a_table(anatomy):
    """The correlation ratio, computed label by label."""
    image = image_of(anatomy, CONTRASTS["T1w"])
    labels = anatomy[0]
    fit = fit_of_labels(image, labels, SPACING, GROUPS)
    # 180 mm in 32 steps of two voxels; intensities clipped at the 0.5th and 99th percentile.
    thin, classes = image[1::2, 1::2, 1::2], labels[1::2, 1::2, 1::2]
    low, high = np.percentile(thin, (0.5, 99))
    values = ((thin - low) / (high - low)).clip(0, 1)
    for mask, expected in ((classes >= 0, fit.whole[0]), (classes > 0, fit.inside[0])):
        within = sum(
            ((values[k] - values[k].mean()) ** 2).sum()
            for k in (mask & (classes == c) for c in range(4))
            if k.any()
        )
        total = ((values[mask] - values[mask].mean()) ** 2).sum()
        assert expected == pytest.approx(1 - within / total, abs=1e-6)


def test_clusters_of_equal_values():
    threshold, gap = two_clusters(np.array([0.1] * 10 + [0.9] * 90))
    assert 0.1 < threshold < 0.9
    assert gap == pytest.approx(0.8, abs=0.02)
