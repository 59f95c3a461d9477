"""Tiles cover, overlap, and add up to one."""

import itertools
import math

import pytest
import torch

from l2s_pydra.segmentation import tiles


@pytest.mark.parametrize("n", [8, 30, 127, 129, 160, 200, 511])
@pytest.mark.parametrize("multiple", [1, 2, 8, 32])
def test_tiles_cover_and_overlap(n, multiple):
    counts = range(1, min(8, tiles._most_tiles(n, multiple)) + 1)
    for count in counts:
        tiling = tiles.tiling([n], multiple, [count])
        (spans,) = tiling.spans
        assert len(tiling) == len(spans) == count
        assert spans[0][0] == 0
        assert n <= spans[-1][0] + spans[-1][1] < n + multiple
        assert all(length % multiple == 0 for _, length in spans)
        assert max(length for _, length in spans) - min(length for _, length in spans) <= multiple
        assert all(a[0] + a[1] - b[0] >= tiles.OVERLAP for a, b in itertools.pairwise(spans))


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 1, 2), (2, 3, 2)])
def test_windows_add_up_to_one(counts):
    tiling = tiles.tiling((100, 80, 60), 4, counts)
    total = torch.zeros(104, 84, 64)
    for tile in tiling:
        x, y, z = tiling.windows(tile)
        part = tuple(slice(start, start + n) for start, n in tile)
        total[part] += x[:, None, None] * y[:, None] * z
    torch.testing.assert_close(total[:100, :80, :60], torch.ones(100, 80, 60))
    assert len(tiling) == math.prod(counts)


def test_the_whole_is_taken_where_it_fits():
    found = tiles.fitting_tiling((160, 192, 160), 16, lambda size: True)
    assert found.spans == (((0, 160),), ((0, 192),), ((0, 160),))
    assert found.voxels == 160 * 192 * 160


@pytest.mark.parametrize("most", [3_000_000, 1_000_000, 200_000])
def test_nothing_that_fits_has_less_to_compute(most):
    shape, multiple = (160, 192, 144), 16
    found = tiles.fitting_tiling(shape, multiple, lambda size: math.prod(size) <= most)
    assert math.prod(found.largest) <= most
    for counts in itertools.product(range(1, 5), repeat=3):
        other = tiles.tiling(shape, multiple, counts)
        assert math.prod(other.largest) > most or other.voxels >= found.voxels


def test_what_fits_nowhere():
    assert tiles.fitting_tiling((160, 192, 144), 16, lambda size: False) is None
    assert tiles.smallest_tiling((160, 20, 48), 16).largest == (32, 32, 32)


@pytest.mark.parametrize("side", [1, 33, 64, 100, 128])
def test_no_side_is_longer_than_asked_for(side):
    found = tiles.side_tiling((160, 192, 144), 16, side)
    assert max(found.largest) <= max(side, 32)
