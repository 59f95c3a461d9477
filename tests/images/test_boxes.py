"""Values on a box of a grid are those of the whole grid, filled up."""

import numpy as np
import pytest
import torch

from l2s_pydra.errors import ShapeError
from l2s_pydra.images.boxes import Box

SHAPE = (5, 6, 7)
OUTSIDE = np.array([1, 0], dtype=np.float32)


@pytest.fixture
def values():
    return np.random.default_rng(0).random((2, 2, 3, 4), dtype=np.float32)


def spans(*ends):
    return tuple(slice(*end) for end in ends)


@pytest.mark.parametrize(
    ("region", "shared"),
    [
        (spans((0, 5), (0, 6), (0, 7)), True),
        (spans((1, 3), (2, 5), (0, 4)), True),
        (spans((0, 2), (4, 6), (3, 5)), True),
        (spans((3, 5), (0, 6), (0, 7)), False),
        (spans((0, 1), (0, 2), (6, 7)), False),
    ],
)
def test_parts_are_those_of_the_whole(values, region, shared):
    whole = np.empty((2, *SHAPE), dtype=np.float32)
    whole[:] = OUTSIDE[:, None, None, None]
    whole[:, 1:3, 2:5, 0:4] = values
    box = Box.on(torch.from_numpy(values), (1, 2, 0), SHAPE, OUTSIDE)
    np.testing.assert_array_equal(box.part(region), whole[(slice(None), *region)])
    assert box.touches(region) is shared


def test_a_part_within_the_box_is_no_copy(values):
    box = Box.on(values, (1, 2, 0), SHAPE, OUTSIDE)
    assert np.shares_memory(box.part(spans((1, 2), (3, 5), (1, 4))), values)


@pytest.mark.parametrize("start", [(-1, 0, 0), (4, 0, 0), (0, 4, 0), (0, 0, 4)])
def test_boxes_beyond_the_grid(values, start):
    with pytest.raises(ShapeError, match="working grid"):
        Box.on(values, start, SHAPE, OUTSIDE)


@pytest.mark.parametrize("array", [np.zeros((2, 2, 2)), np.zeros((0, 2, 2, 2))])
def test_arrays_that_are_no_box(array):
    with pytest.raises(ShapeError, match="working grid"):
        Box.on(array, (0, 0, 0), SHAPE, OUTSIDE)
