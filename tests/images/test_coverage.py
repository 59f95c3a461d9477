"""Slabs of a head: found, drawn out, and what lies beyond them, against numpy and arithmetic."""

import itertools

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.eulerangles import euler2mat

from l2s_pydra.images.conform import Conform
from l2s_pydra.images.coverage import Coverage
from l2s_pydra.images.volume import Volume


def volume(data, affine):
    return Volume(data=data, affine=np.asarray(affine, dtype=float), header=None, path="x.nii")


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
    found = Coverage.of(image)
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
    found = Coverage.of(thick)
    assert (found.first, found.last, found.before, found.after) == (0, 2, 4, 4)  # 16 mm in 5s
    # A small head is drawn out by a share of its size
    small = volume(head()[:, :, 30:38], np.diag([0.2, 0.2, 0.2, 1]))
    found = Coverage.of(small)
    longest = np.ptp(np.flatnonzero(small.data.any((0, 2)))) + 1
    assert found.before == found.after
    assert 0.1 * longest <= found.before <= 0.12 * longest + 1


def test_a_face_that_is_not_cut_stays():
    # The lower part of a head: it is cut above, and ends of itself below
    image = volume(head()[:, :, :20], np.diag([2.0, 2, 2, 1]))
    found = Coverage.of(image)
    assert (found.axis, found.before, found.after) == (2, 0, 8)
    extended = found.extended(image)
    assert extended.shape == (80, 96, 28)
    np.testing.assert_array_equal(extended.data[:, :, :20], image.data)
    np.testing.assert_array_equal(extended.affine, image.affine)
    assert not found.beyond(image.affine, image.shape).any()


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
    assert Coverage.of(volume(data, np.diag([spacing] * 3 + [1]))) is None


def test_noise_around_a_head_does_not_hide_that_it_is_a_slab():
    data = head()[:, :, 30:38]
    data = data + 0.2 * np.random.default_rng(0).random(data.shape, dtype=np.float32)
    found = Coverage.of(volume(data, np.diag([2.0, 2, 2, 1])))
    assert (found.first, found.last, found.before, found.after) == (0, 7, 8, 8)


@pytest.mark.parametrize("black", [0, 20])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "affine", [np.diag([*SPACING, 1]), oblique(SPACING)], ids=["RAS", "oblique"]
)
def test_the_grid_of_the_extended_image_is_the_working_grid_moved(axis, affine, black):
    image = volume(slab(axis, *MIDDLE[axis], black), affine)
    conform = Conform.to_grid(image, 3.0)
    found = Coverage.of(image)
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


def test_what_is_beyond_is_measured_across_the_slices():
    affine = oblique((1.0, 1.0, 4.0))
    data = np.zeros((60, 60, 12), np.float32)
    data[5:55, 5:55, 4:8] = 1 + np.arange(50)[:, None, None]
    found = Coverage.of(volume(data, affine))
    assert (found.first, found.last) == (4, 7)
    own = found.beyond(affine, data.shape)
    assert own[:, :, [0, 3, 8, 11]].all()
    assert not own[:, :, 4:8].any()
    other = np.diag([2.0, 2, 2, 1]) + np.eye(4, k=3) * -70
    for margin in (0.0, 3.0):
        beyond = found.beyond(other, (40, 50, 30), margin_mm=margin)
        index = np.stack(np.meshgrid(*map(np.arange, (40, 50, 30)), indexing="ij"), -1)
        world = apply_affine(other, index)
        normal = affine[:3, 2] / 4
        depth = (world - affine[:3, 3]) @ normal  # mm from the middle of the first slice
        expected = (depth < 4 * 4 - 2 - margin) | (depth > 7 * 4 + 2 + margin)
        np.testing.assert_array_equal(beyond, expected)
        assert 0 < beyond.mean() < 1
