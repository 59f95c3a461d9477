"""Posteriors of whole volumes, slices, tiles and mirror images."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from l2s_pydra.config import SegmenterConfig
from l2s_pydra.normalisation import normalise
from l2s_pydra.segmentation import Segmenter, inference, predict_posteriors

OPPOSITE = (0, 2, 1)


def make(ndim=3, **settings):
    torch.manual_seed(0)
    config = SegmenterConfig(**{"ndim": ndim, "width": 4, "depth": 1, "convolutions": 2} | settings)
    net = Segmenter(config, 3)
    with torch.no_grad():
        # Spread the logits, so that differences between posteriors show.
        net.unet.final.weight.mul_(4)
    return net


@pytest.fixture
def volume():
    """A textured block, 20 voxels from the faces along the first axis, in other units."""
    generator = torch.Generator().manual_seed(1)
    x = torch.zeros(60, 16, 14)
    x[20:44, 3:13, 2:12] = 50 + 100 * torch.rand(24, 10, 10, generator=generator)
    return x


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("depth", [1, 3])
def test_posteriors_sum_to_one(volume, ndim, depth):
    posteriors = predict_posteriors(make(ndim, depth=depth), volume)
    assert posteriors.shape == (3, *volume.shape)
    assert posteriors.dtype == torch.float32
    torch.testing.assert_close(posteriors.sum(0), torch.ones(volume.shape))


@pytest.mark.parametrize("depth", [1, 3])
def test_the_network_sees_the_normalised_volume(volume, depth):
    net = make(depth=depth)
    normalised = normalise(volume[None, None])
    # The box reaches from 12 voxels before the block to 12 behind it, or to the faces.
    crop = normalised[:, :, 8:56]
    padded = functional.pad(crop, (0, -14 % net.multiple, 0, 0, 0, 0))
    with torch.no_grad():
        expected = net(padded)[0, ..., :14].softmax(0)
    found = predict_posteriors(net, volume)
    torch.testing.assert_close(found[:, 8:56], expected)
    assert (found[0, :8] == 1).all()
    assert (found[0, 56:] == 1).all()


def test_an_empty_volume_is_segmented_too():
    posteriors = predict_posteriors(make(), torch.zeros(9, 8, 7))
    torch.testing.assert_close(posteriors.sum(0), torch.ones(9, 8, 7))


def test_tiles_are_the_whole_away_from_their_edges(volume, monkeypatch):
    monkeypatch.setattr(inference, "_TILE", 24)
    net = make()
    whole = predict_posteriors(net, volume)
    tiled = predict_posteriors(net, volume, most_voxels=24 * 16 * 14)
    # The box has 48 voxels along the first axis: tiles of 24 that overlap by 16. Two convolutions
    # see two voxels far: nearer than that to a face of a tile, its padding shows.
    faces = {8 + start + side for start in (0, 8, 16, 24) for side in (0, 24)} - {8, 56}
    shown = [x for x in range(60) if all(not -2 <= x - face < 2 for face in faces)]
    assert len(shown) > 30
    torch.testing.assert_close(tiled[:, shown], whole[:, shown], atol=1e-5, rtol=1e-4)
    # Where it shows, other tiles outweigh it.
    assert float((tiled - whole).abs().max()) < 0.5


@pytest.mark.parametrize("n", [8, 127, 128, 129, 160, 200, 256, 511, 1000])
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_tiles_cover_and_overlap(n, multiple):
    tile = inference._tile(n, multiple)
    starts = inference._starts(n, tile)
    assert tile <= min(n, 128 + multiple)
    assert starts[0] == 0
    assert starts[-1] == n - tile
    assert all(a + tile - b >= 16 for a, b in itertools.pairwise(starts))
    # No more tiles than tiles of 128 voxels would be.
    assert len(starts) <= max(1, math.ceil((n - 16) / (128 - 16)))


def test_a_network_that_sees_places_is_given_the_whole(volume):
    net = make(coordinates=True)
    whole = predict_posteriors(net, volume)
    assert torch.equal(predict_posteriors(net, volume, most_voxels=1), whole)


def test_slices_are_those_of_the_last_axis_normalised_one_by_one(volume):
    net = make(2, depth=2)
    crop = normalise(volume[None, None])[0, :, 8:56]
    with torch.no_grad():
        expected = [net(normalise(crop[None, ..., z]))[0].softmax(0) for z in range(14)]
    found = predict_posteriors(net, volume)
    torch.testing.assert_close(found[:, 8:56], torch.stack(expected, -1))


def test_a_dim_slice_is_brightened_twofold_at_most(volume):
    net = make(2, depth=2)
    volume[..., 4] /= 20
    crop = normalise(volume[None, None])[0, :, 8:56]
    with torch.no_grad():
        expected = net(2 * crop[None, ..., 4])[0].softmax(0)
    torch.testing.assert_close(predict_posteriors(net, volume)[:, 8:56, :, 4], expected)


def test_few_slices_at_a_time_change_nothing(volume):
    net = make(2, depth=2)
    together = predict_posteriors(net, volume)
    torch.testing.assert_close(predict_posteriors(net, volume, most_voxels=1), together)


def test_a_single_slice(volume):
    posteriors = predict_posteriors(make(2, depth=2), volume[..., 6:7])
    assert posteriors.shape == (3, 60, 16, 1)


@pytest.mark.parametrize("ndim", [2, 3])
def test_mirror_images_are_averaged(volume, ndim):
    net = make(ndim)
    straight = predict_posteriors(net, volume)
    mirrored = predict_posteriors(net, volume.flip(0)).flip(1)[list(OPPOSITE)]
    found = predict_posteriors(net, volume, opposite=OPPOSITE)
    # Boxes are mirrored with the image, and so are the posteriors inside.
    torch.testing.assert_close(found, (straight + mirrored) / 2)
    again = predict_posteriors(net, volume.flip(0), opposite=OPPOSITE).flip(1)[list(OPPOSITE)]
    torch.testing.assert_close(found, again)


def test_reduced_precision_is_close(volume):
    net = make()
    full = predict_posteriors(net, volume)
    # bf16 has 8 bits: logits of about 4 are right to a few hundredths.
    half = predict_posteriors(net, volume, precision="bf16")
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)
    assert half.dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_is_left_alone(volume, training):
    net = make().train(training)
    posteriors = predict_posteriors(net, volume)
    assert net.training is training
    assert not posteriors.requires_grad
