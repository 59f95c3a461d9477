import numpy as np
import pytest
from scipy import ndimage

from l2s_pydra.steps.components import keep_largest


def volume(shape=(12, 10, 8)):
    return np.zeros(shape, dtype=np.int16)


def pieces(mask):
    return ndimage.label(mask, np.ones((3, 3, 3)))[1]


def test_a_piece_goes_to_what_surrounds_it():
    channels = volume()
    channels[:6] = 2
    channels[8:11, 2:5, 2:5] = 1
    channels[2:4, 4:6, 4:6] = 1
    kept, (removed,) = keep_largest(channels, [1])
    assert (removed.channel, removed.pieces, removed.voxels) == (1, 1, 8)
    assert (kept[2:4, 4:6, 4:6] == 2).all()
    np.testing.assert_array_equal(kept == 1, (channels == 1) & (np.arange(12) > 6)[:, None, None])


def test_the_image_is_not_changed_and_other_structures_are_left_alone():
    channels = volume()
    channels[0, 0, 0] = channels[5, 5, 5] = channels[5, 5, 6] = 1
    channels[0, 9, 7] = channels[9, 9, 7] = 2
    before = channels.copy()
    kept, removed = keep_largest(channels, [1])
    np.testing.assert_array_equal(channels, before)
    assert (kept == 2).sum() == 2
    assert kept[0, 0, 0] == 0
    assert [item.channel for item in removed] == [1]


def test_voxels_that_share_a_corner_are_one_piece():
    channels = volume()
    channels[3, 3, 3] = channels[4, 4, 4] = 1
    kept, removed = keep_largest(channels, [1, 2])
    assert removed == ()
    np.testing.assert_array_equal(kept, channels)


def test_of_two_loose_pieces_side_by_side_none_takes_the_other():
    channels = volume()
    channels[0:4, 0:4, 0:4] = 1
    channels[0:4, 6:10, 0:4] = 2
    channels[9, 5, 5], channels[10, 5, 5] = 1, 2
    kept, removed = keep_largest(channels, [1, 2])
    assert kept[9:, 5, 5].tolist() == [0, 0, 0]
    assert [item.voxels for item in removed] == [1, 1]


def test_an_image_full_of_loose_pieces():
    channels = np.array([1, 2, 1, 2], dtype=np.int16).reshape(4, 1, 1)
    kept, _ = keep_largest(channels, [1, 2])
    assert kept.ravel().tolist() == [1, 2, 2, 2] or pieces(kept == 1) == pieces(kept == 2) == 1


@pytest.mark.parametrize("seed", range(6))
def test_each_structure_is_one_piece_afterwards(seed):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, 14, 13, 12)), (0, 1.2, 1.2, 1.2))
    channels = smooth.argmax(0).astype(np.int16)
    kept, removed = keep_largest(channels, [1, 2])
    assert removed
    for channel in (1, 2):
        assert pieces(kept == channel) == 1
    voxels = sum(item.voxels for item in removed)
    assert np.count_nonzero(kept != channels) == voxels
