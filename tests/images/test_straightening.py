"""Slabs that lie turned in a grid, against the same slabs on their own grid."""

import itertools

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.eulerangles import euler2mat

from l2s_pydra.images.coverage import Coverage
from l2s_pydra.images.straightening import straightened
from l2s_pydra.images.volume import Volume


def pattern(world):
    """Smooth, positive values in the world, mm."""
    x, y, z = np.moveaxis(world, -1, 0)
    return 20 + 4 * np.sin(x / 9) * np.cos(y / 11) + 2 * np.sin(z / 5 + x / 20)


def turned(angles, axis=2, thickness=16.0, spacing=(2.0, 2.0, 2.0), radius=(70.0, 80.0)):
    """Image of an oval slab about the origin, in a grid that is turned; the slab's axes in the world."""
    slab = euler2mat(*angles)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)
    shape = [int(200 / s) for s in spacing]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + (3, -2, 1)
    world = apply_affine(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
    own = world @ slab
    flat = [k for k in range(3) if k != axis]
    inside = sum((own[..., k] / r) ** 2 for k, r in zip(flat, radius, strict=True)) < 1
    # As linear interpolation has it: half in, half out within a voxel of a face
    cut = (thickness / 2 - np.abs(own[..., axis])) / spacing[axis] + 0.5
    data = pattern(world) * inside * cut.clip(0, 1)
    image = Volume(data=data.astype(np.float32), affine=affine, header=None, path="x")
    return image, slab


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [3, 10, 30])
def test_a_turned_slab_is_laid_along_the_grid(axis, degrees):
    angle = np.deg2rad(degrees)
    angles = [angle, 0.6 * angle, 0.3 * angle]
    angles[2 - axis] = 0.0  # a turn about the normal is none (euler2mat: z, y, x)
    image, slab = turned(angles, axis)
    straight = straightened(image)
    columns = straight.affine[:3, :3]
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), image.spacing_mm)
    np.testing.assert_allclose(columns.T @ columns, 4 * np.eye(3), atol=1e-9)
    assert abs(columns[:, axis] @ slab[:, axis]) / 2 > np.cos(np.deg2rad(0.5))
    assert (np.diag(columns) > 0).all()
    found = Coverage.of(straight, repeat_mm=16.0)
    assert found.axis == axis
    assert found.thickness_mm == pytest.approx(16, abs=4)
    assert found.before == found.after == 8
    # Values are where they were in the world
    index = np.stack(np.meshgrid(*map(np.arange, straight.shape), indexing="ij"), -1)
    world = apply_affine(straight.affine, index)
    own = world @ slab
    flat = [k for k in range(3) if k != axis]
    deep = (np.abs(own[..., axis]) < 4) & (np.abs(own[..., flat]) < 45).all(-1)
    assert deep.sum() > 3000
    np.testing.assert_allclose(straight.data[deep], pattern(world)[deep], rtol=0.02)
    # All of the slab is on the new grid
    assert straight.data.sum() == pytest.approx(image.data.sum(), rel=0.01)


@pytest.mark.parametrize(
    ("angles", "options"),
    [
        ((0, 0, 0), {}),  # along the grid
        ((0, 0.3, 0.2), {"thickness": 100.0}),
        ((0, 0.3, 0.2), {"thickness": 60.0, "radius": (50.0, 50.0)}),  # no flatter than a head
    ],
)
def test_what_is_no_turned_slab(angles, options):
    image, _ = turned(angles, **options)
    assert straightened(image) is None


def test_black_and_single_slices():
    for shape in ((9, 9, 9), (40, 40, 1)):
        data = np.zeros(shape, np.float32)
        assert straightened(Volume(data=data, affine=np.eye(4), header=None, path="x")) is None


@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_axes_keep_their_direction(flips):
    image, _ = turned((0.0, 0.2, 0.25))
    data = image.data[:: flips[0], :: flips[1], :: flips[2]]
    ends = [0 if f == 1 else n - 1 for f, n in zip(flips, image.shape, strict=True)]
    affine = image.affine @ np.diag([*flips, 1.0])
    affine[:3, 3] = apply_affine(image.affine, ends)
    straight = straightened(Volume(data=data, affine=affine, header=None, path="x"))
    assert (np.sign(np.diag(straight.affine)[:3]) == flips).all()
    assert np.sign(np.linalg.det(straight.affine)) == np.prod(flips)
    assert Coverage.of(straight, repeat_mm=16.0).axis == 2
