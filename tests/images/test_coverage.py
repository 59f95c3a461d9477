"""Slabs of a head: found, drawn out, and what lies beyond them, against numpy and arithmetic."""

import itertools

import numpy as np
import pytest
import scipy.ndimage as ndi
from nibabel.affines import apply_affine
from nibabel.eulerangles import euler2mat

from l2s_pydra.images.conform import Conform
from l2s_pydra.images.coverage import Coverage
from l2s_pydra.images.volume import Volume


def volume(data, affine):
    return Volume(data=data, affine=np.asarray(affine, dtype=float), header=None, path="x.nii")


def found_in(image, **options):
    return Coverage.of(image, **{"repeat_mm": 16.0, **options})


def oblique(spacing):
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(0.25, -0.2, 0.15) * spacing
    affine[:3, 3] = -60, 40, 12
    return affine


def head(shape=(80, 96, 70), half=(36, 44, 32)):
    """An ellipsoid with a pattern in it; nothing around."""
    places = [(np.arange(n) - (n - 1) / 2) / h for n, h in zip(shape, half, strict=True)]
    x, y, z = np.meshgrid(*places, indexing="ij")
    data = 2 + np.sin(9 * x) * np.cos(7 * y) * np.sin(11 * z)
    return np.where(x**2 + y**2 + z**2 < 1, data, 0).astype(np.float32)


def slab(axis, first, last, black=0):
    """Slices ``first`` to ``last`` of the head, with black ones around."""
    part = head().take(range(first, last + 1), axis)
    width = [(0, 0)] * 3
    width[axis] = (black, black)
    return np.pad(part, width)


SPACING = (2.0, 2.0, 2.0)
MIDDLE = [(36, 43), (44, 51), (31, 38)]


@pytest.mark.parametrize("black", [0, 3])
@pytest.mark.parametrize(
    "affine", [np.diag([*SPACING, 1]), oblique(SPACING)], ids=["RAS", "oblique"]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_is_found_and_drawn_out(axis, affine, black):
    image = volume(slab(axis, *MIDDLE[axis], black), affine)
    found = found_in(image)
    assert (found.axis, found.first, found.last) == (axis, black, black + 7)
    assert found.thickness_mm == pytest.approx(16)
    assert found.before == found.after == 8  # 16 mm
    extended = found.extended(image)
    # Every voxel of the new image, by its place in the world
    index = np.stack(np.meshgrid(*map(np.arange, extended.shape), indexing="ij"), -1)
    world = apply_affine(extended.affine, index)
    old = np.rint(apply_affine(np.linalg.inv(affine), world)).astype(int)
    assert (old[..., axis].min(), old[..., axis].max()) == (black - 8, black + 7 + 8)
    old[..., axis] = old[..., axis].clip(black, black + 7)
    np.testing.assert_array_equal(extended.data, image.data[tuple(np.moveaxis(old, -1, 0))])


def test_slices_are_counted_by_their_thickness():
    thick = volume(head()[:, :, 20:50:10], np.diag([2.0, 2, 5, 1]))
    found = found_in(thick)
    assert (found.first, found.last, found.before, found.after) == (0, 2, 4, 4)  # 16 mm in 5s
    # A small head is drawn out by a share of its size
    small = volume(head()[:, :, 30:38], np.diag([0.2, 0.2, 0.2, 1]))
    found = found_in(small)
    longest = np.ptp(np.flatnonzero(small.data.any((0, 2)))) + 1
    assert found.before == found.after
    assert 0.1 * longest <= found.before <= 0.12 * longest + 1


def test_a_face_that_is_not_cut_stays():
    # The lower part of a head: it is cut above, and ends of itself below
    image = volume(head()[:, :, :20], np.diag([2.0, 2, 2, 1]))
    found = found_in(image)
    assert (found.axis, found.before, found.after) == (2, 0, 8)
    extended = found.extended(image)
    assert extended.shape == (80, 96, 28)
    np.testing.assert_array_equal(extended.data[:, :, :20], image.data)
    np.testing.assert_array_equal(extended.affine, image.affine)
    np.testing.assert_array_equal(found.share(image.affine, image.shape), 1)


@pytest.mark.parametrize(
    ("data", "spacing"),
    [
        (head(), 2.0),  # 128 mm and more along each axis
        (head(), 1.0),  # 64 mm, but no flatter than a head
        (head()[:, :, :50], 2.0),  # 94 mm, cut off
        (head(half=(36, 44, 12)), 2.0),  # flat, and ends of itself
        (head()[:, :, 30:31], 2.0),  # a single slice
        (np.zeros((9, 40, 40), np.float32), 2.0),
        (np.full((9, 9, 9), 7, np.float32), 2.0),
    ],
    ids=["head", "small head", "most of a head", "flat", "slice", "black", "constant"],
)
def test_what_is_no_slab(data, spacing):
    assert found_in(volume(data, np.diag([spacing] * 3 + [1]))) is None


def magnitude(data, share, seed=0):
    """With Rician noise of a share of the range."""
    rng, std = np.random.default_rng(seed), share * 3.0
    real, imaginary = (rng.normal(0, std, data.shape) for _ in range(2))
    return np.hypot(data + real, imaginary).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_noise_changes_nothing(noise):
    """The field of view is not what is shown."""
    around = [(40, 40), (32, 32), (0, 0)]
    slab_of_it = np.pad(head()[:, :, 30:38], around)
    found = found_in(volume(magnitude(slab_of_it, noise), np.diag([2.0, 2, 2, 1])))
    assert (found.first, found.last, found.before, found.after) == (0, 7, 8, 8)
    # A whole head of 80 x 100 x 70 mm in 24 slices of 3 mm
    small = np.pad(head((80, 100, 24), (40, 50, 11.5)), [(50, 50), (40, 40), (0, 0)])
    assert found_in(volume(magnitude(small, noise), np.diag([1.0, 1, 3, 1]))) is None


def test_single_voxels_and_ringing_change_nothing():
    """Resampled images have values below those of the air."""
    data, affine = slab(2, 31, 38, black=12), np.diag([2.0, 2, 2, 1])
    data[3, 3, 2] = -5
    found = found_in(volume(data, affine))
    assert (found.first, found.last) == (12, 19)
    finer = ndi.zoom(
        slab(2, 31, 38, black=12), (1, 1, 2), order=3, grid_mode=True, mode="grid-constant"
    )
    assert finer.min() < -0.1
    found = found_in(volume(finer, np.diag([2.0, 2, 1, 1])))
    # Half a slice beyond is brighter than nothing; what is repeated is as bright as the rest
    assert (found.first, found.last) == (23, 40)
    assert found.fading_before == found.fading_after == 2
    assert found.before == found.after == 16


@pytest.mark.parametrize("std", [0.7, 1.0])
def test_faces_that_fade_are_replaced(std):
    """Copies are of the first slice that is as bright as the others."""
    thick = slab(2, 31, 34, black=3).repeat(5, axis=2)
    blurred = ndi.gaussian_filter1d(thick, std, axis=2)
    image = volume(blurred, np.diag([2.0, 2, 1, 1]))
    found = found_in(image)
    assert 13 <= found.first <= 15
    assert found.first - 15 == 34 - found.last  # as far on either side
    extended = found.extended(image)
    means = extended.data.mean((0, 1))
    bright = np.median(means)
    assert (means[1:-1] > 0.6 * bright).all()
    assert extended.shape[2] == found.last - found.first + 1 + found.before + found.after
    # Where nothing was replaced, every voxel is where it was
    place = np.linalg.solve(extended.affine, image.affine)
    np.testing.assert_array_equal(place[:3, :3], np.eye(3))
    shift = int(place[2, 3])
    np.testing.assert_array_equal(
        extended.data[:, :, 18 + shift : 32 + shift], blurred[:, :, 18:32]
    )


def test_slices_that_get_darker_over_a_long_way_are_kept():
    data = slab(2, 21, 44) * np.linspace(0.2, 1.0, 24, dtype=np.float32)
    found = found_in(volume(data, np.diag([2.0, 2, 2, 1])))
    assert (found.first, found.last) == (0, 23)
    assert found.fading_before == found.fading_after == 0


def test_bounds_are_in_mm():
    large = volume(head()[:, :, 20:52], np.diag([3.0, 3, 3, 1]))  # 96 mm of 264
    assert found_in(large) is None
    assert found_in(large, thin_mm=100.0).thickness_mm == 96
    thin = volume(head()[:, :, 30:38], np.diag([2.0, 2, 2, 1]))
    assert found_in(thin, thin_mm=15.9) is None
    assert found_in(thin, repeat_mm=0.0) is None
    assert found_in(thin, repeat_mm=6.0).before == 3


@pytest.mark.parametrize("black", [0, 20])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "affine", [np.diag([*SPACING, 1]), oblique(SPACING)], ids=["RAS", "oblique"]
)
def test_the_grid_of_the_extended_image_is_the_working_grid_moved(axis, affine, black):
    image = volume(slab(axis, *MIDDLE[axis], black), affine)
    conform = Conform.to_grid(image, 3.0)
    found = found_in(image)
    extended = found.extended(image)
    laid, first = found.grid(conform, extended)
    np.testing.assert_allclose(laid.affine @ [*first, 1], conform.affine[:, 3], atol=1e-9)
    np.testing.assert_array_equal(laid.affine[:3, :3], conform.affine[:3, :3])
    # It covers what the extended image covers, and not a voxel more
    ends = itertools.product(*((-0.5, n - 0.5) for n in extended.shape))
    reached = apply_affine(np.linalg.inv(laid.affine) @ extended.affine, list(ends))
    spare = reached.min(0) + 0.5, np.array(laid.shape) - 0.5 - reached.max(0)
    for side in spare:
        assert (side > -0.01).all()
        assert (side < 1.01).all()
    # Deep in the slab, the image is what it was
    working = conform.image(image)
    index = np.stack(np.meshgrid(*map(np.arange, laid.shape), indexing="ij"), -1)
    place = apply_affine(np.linalg.inv(affine) @ laid.affine, index)[..., axis]
    there = index - first
    deep = (place > black + 2.5) & (place < black + 4.5)
    deep &= ((there >= 0) & (there < conform.shape)).all(-1)
    assert deep.sum() > 1000
    same = working[tuple(there[deep].T)]
    np.testing.assert_allclose(laid.image(extended)[deep], same, atol=0.05)


def test_shares_of_voxels_are_those_of_finer_voxels():
    affine = oblique((1.0, 1.0, 4.0))
    data = np.zeros((60, 60, 12), np.float32)
    data[5:55, 5:55, 4:8] = 20 + np.arange(50)[:, None, None]
    found = found_in(volume(data, affine))
    assert (found.first, found.last) == (4, 7)
    own = found.share(affine, data.shape)
    np.testing.assert_allclose(own[:, :, 4:8], 1)
    np.testing.assert_allclose(own[:, :, [0, 3, 8, 11]], 0, atol=1e-6)
    # Voxels of 2 mm, by 5 x 5 x 5 points in each
    other = np.diag([2.0, 2, 2, 1]) + np.eye(4, k=3) * -70
    shape = (40, 50, 30)
    normal = affine[:3, 2] / 4
    for margin in (0.0, 3.0):
        expected = np.zeros(shape)
        for offset in itertools.product(np.linspace(-0.4, 0.4, 5), repeat=3):
            index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) + offset
            # mm from the middle of the first slice
            depth = (apply_affine(other, index) - affine[:3, 3]) @ normal
            expected += (depth > 4 * 4 - 2 - margin) & (depth < 7 * 4 + 2 + margin)
        expected /= 125
        share = found.share(other, shape, margin_mm=margin)
        assert 0 < share.mean() < 1
        np.testing.assert_allclose(share, expected, atol=0.25)
        assert share.mean() == pytest.approx(expected.mean(), rel=0.01)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_beyond_is_cleared_on_the_image_and_on_parts_of_it(axis):
    affine = oblique(SPACING)
    image = volume(slab(axis, *MIDDLE[axis], black=5), affine)
    found = found_in(image)
    values = np.ones(image.shape, np.int16)
    found.clear(values, affine, 7)
    expected = np.full(image.shape, 7)
    expected[(slice(None),) * axis + (slice(5, 13),)] = 1
    np.testing.assert_array_equal(values, expected)
    part = np.ones((9, 10, 11))
    corner = np.array([3, 4, 2])
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ corner
    found.clear(part, moved, 7)
    inside = tuple(slice(c, c + n) for c, n in zip(corner, part.shape, strict=True))
    np.testing.assert_array_equal(part, expected[inside])
