"""What holds for any affine: round trips and boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.eulerangles import euler2mat

from l2s_pydra.images import conform as module
from l2s_pydra.images.conform import Conform
from l2s_pydra.images.volume import Volume

# The same examples on every run, and no folder of former failures
ALWAYS_THE_SAME = settings(max_examples=60, deadline=None, derandomize=True, database=None)
K = 4


@pytest.fixture(autouse=True)
def small_blocks():
    # hypothesis refuses fixtures that last one test function for many examples; this one may
    before, module._BLOCK = module._BLOCK, 7
    yield
    module._BLOCK = before


def numbers(low, high):
    return st.floats(low, high, allow_nan=False)


@st.composite
def parallel_affines(draw, spacing):
    """Axes in any order and direction, stored as files do."""
    axes = draw(st.permutations(range(3)))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for source, world in enumerate(axes):
        affine[world, source] = draw(st.sampled_from([-1, 1])) * spacing
    affine[:3, 3] = [draw(numbers(-300, 300)) for _ in range(3)]
    return affine.astype(np.float32).astype(np.float64)


@st.composite
def oblique_affines(draw, low, high):
    """Axes at any angle, of any direction, slightly sheared."""
    turned = euler2mat(*(draw(numbers(-3.1, 3.1)) for _ in range(3)))
    spacing = [draw(st.sampled_from([-1, 1])) * draw(numbers(low, high)) for _ in range(3)]
    affine = np.eye(4)
    shear = np.eye(3)
    shear[0, 1] = draw(numbers(-0.1, 0.1))
    affine[:3, :3] = turned @ np.diag(spacing) @ shear
    affine[:3, 3] = [draw(numbers(-300, 300)) for _ in range(3)]
    return affine.astype(np.float32).astype(np.float64)


shapes = st.tuples(*[st.integers(2, 12)] * 3)


def laid_over(affine, shape, spacing):
    data = np.broadcast_to(np.float32(0), shape)
    return Conform.to_grid(Volume(data=data, affine=affine, header=None, path="x.nii"), spacing)


def one_hot(labels):
    return (labels == np.arange(K).reshape(-1, 1, 1, 1)).astype(np.float32)


@ALWAYS_THE_SAME
@given(data=st.data(), spacing=st.sampled_from([0.7, 1.0, 1.7, 3.0]), shape=shapes)
def test_a_reordered_grid_gives_back_every_label_both_ways(data, spacing, shape):
    conform = laid_over(data.draw(parallel_affines(spacing)), shape, spacing)
    labels = data.draw(arrays(np.int16, shape, elements=st.integers(0, K - 1)))
    there = conform.labels(labels)
    back = conform.posterior_to_source(one_hot(there))
    np.testing.assert_array_equal(back, labels)
    np.testing.assert_array_equal(conform.labels(back), there)


@ALWAYS_THE_SAME
@given(data=st.data(), affine=oblique_affines(0.2, 0.4), shape=st.tuples(*[st.integers(8, 20)] * 3))
def test_labels_on_the_working_grid_survive_any_fine_source(data, affine, shape):
    # The nearest source voxel is at most half a diagonal of 0.4 voxels away, where the trilinear
    # weight of the working voxel is (1 - 0.2)^3 > 1/2 at the least; shear adds a twentieth
    conform = laid_over(affine, shape, 1.06)
    labels = data.draw(arrays(np.int16, conform.shape, elements=st.integers(0, K - 1)))
    back = conform.labels(conform.posterior_to_source(one_hot(labels)))
    seen = conform.labels(np.ones(shape, dtype=bool))
    np.testing.assert_array_equal(back[seen], labels[seen])


@st.composite
def boxes(draw, shape):
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    return starts, [draw(st.integers(s + 1, n)) for s, n in zip(starts, shape, strict=True)]


def in_a_box(data, affine, shape, spacing):
    """Draw a box of a working grid; return it with values on it and on the whole grid."""
    conform = laid_over(affine, shape, spacing)
    start, stop = data.draw(boxes(conform.shape))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    part = rng.random((K, *np.subtract(stop, start)), dtype=np.float32)
    whole = np.zeros((K, *conform.shape), dtype=np.float32)
    whole[0] = 1
    region = tuple(slice(*ends) for ends in zip(start, stop, strict=True))
    whole[(slice(None), *region)] = part
    return conform, start, part, whole


@ALWAYS_THE_SAME
@given(data=st.data(), affine=oblique_affines(0.5, 4), shape=shapes, spacing=numbers(0.8, 3))
def test_a_box_at_an_angle_equals_the_whole(data, affine, shape, spacing):
    conform, start, part, whole = in_a_box(data, affine, shape, spacing)
    np.testing.assert_array_equal(
        conform.posterior_to_source(part, start), conform.posterior_to_source(whole)
    )
    # Outside the working grid a box holds what it holds outside itself
    known = conform.float_to_source(np.ones(conform.shape)) > 0
    for channel, outside in ((0, 1.0), (1, 0.0)):
        np.testing.assert_allclose(
            conform.float_to_source(part[channel], start, outside)[known],
            conform.float_to_source(whole[channel])[known],
            atol=1e-6,
        )


@ALWAYS_THE_SAME
@given(data=st.data(), ratio=numbers(0.3, 3), shape=shapes)
def test_a_box_of_a_reordered_grid_equals_the_whole(data, ratio, shape):
    affine = data.draw(parallel_affines(ratio))
    conform, start, part, whole = in_a_box(data, affine, shape, 1.0)
    np.testing.assert_array_equal(
        conform.posterior_to_source(part, start), conform.posterior_to_source(whole)
    )
    np.testing.assert_array_equal(
        conform.float_to_source(part[0], start, outside=1.0), conform.float_to_source(whole[0])
    )
    np.testing.assert_array_equal(
        conform.float_to_source(part[1], start), conform.float_to_source(whole[1])
    )


@ALWAYS_THE_SAME
@given(affine=oblique_affines(0.3, 6), shape=shapes, spacing=numbers(0.5, 4))
def test_a_place_in_the_world_stays_where_it_is(affine, shape, spacing):
    conform = laid_over(affine, shape, spacing)
    grid = np.stack(np.meshgrid(*map(np.arange, conform.shape), indexing="ij"))
    world = np.tensordot(conform.affine[:3, :3], grid, 1) + conform.affine[:3, 3, None, None, None]
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    expected = np.tensordot(affine[:3, :3], indices, 1) + affine[:3, 3, None, None, None]
    low, high = world.min((1, 2, 3)), world.max((1, 2, 3))
    deep = np.all(
        (expected > low[:, None, None, None]) & (expected < high[:, None, None, None]), axis=0
    )
    for axis in range(3):
        # Linear interpolation of a coordinate is the coordinate; axes that part by less than a
        # hundredth of a voxel count as parallel
        back = conform.float_to_source(world[axis])
        np.testing.assert_allclose(back[deep], expected[axis][deep], atol=0.011 * spacing + 1e-3)
