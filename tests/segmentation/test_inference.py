"""Posteriors of whole volumes, slices, tiles and mirror images."""

import platform

import pytest
import torch
from torch.nn import functional

from l2s_pydra.config import SegmenterConfig
from l2s_pydra.errors import ConfigError, ShapeError
from l2s_pydra.normalisation import normalise
from l2s_pydra.segmentation import Segmenter, inference, planning, predict_posteriors
from l2s_pydra.segmentation.inference import predict

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


def test_tiles_are_the_whole_away_from_their_edges(volume):
    net = make()
    whole = predict_posteriors(net, volume)
    tiled = predict(net, volume, tiles=32).whole()
    # The box has 48 voxels along the first axis: tiles of 32 that overlap by 16. Two convolutions
    # see two voxels far: nearer than that to a face of a tile, its padding shows.
    shown = [x for x in range(60) if all(not -2 <= x - face < 2 for face in (8 + 16, 8 + 32))]
    assert len(shown) == 52
    torch.testing.assert_close(tiled[:, shown], whole[:, shown], atol=1e-5, rtol=1e-4)
    # Where it shows, the other tile outweighs it.
    assert 0 < float((tiled - whole).abs().max()) < 0.5
    torch.testing.assert_close(tiled.sum(0), torch.ones(volume.shape))


def test_tiles_agree_with_a_direct_sum(volume):
    """Windows, tiles and their sum written out, over a network of several levels."""
    net = make(depth=3)
    crop = normalise(volume[None, None])[0, 0, 8:56]
    total, weight = torch.zeros(3, 48, 16, 14), torch.zeros(48, 16, 14)
    for start in (0, 16):
        x = functional.pad(crop[start : start + 32], (0, 2))
        with torch.no_grad():
            p = net(x[None, None])[0, ..., :14].softmax(0)
        gauss = [torch.exp(-8 * ((torch.arange(n) - (n - 1) / 2) / n) ** 2) for n in (32, 16, 16)]
        window = gauss[0][:, None, None] * gauss[1][:, None] * gauss[2][:14]
        total[:, start : start + 32] += window * p
        weight[start : start + 32] += window
    found = predict(net, volume, tiles=32)
    assert found.start == (8, 0, 0)
    torch.testing.assert_close(found.values, total / weight)


def test_a_network_that_sees_places_sees_the_same_in_tiles(volume):
    net = make(coordinates=True, subvoxel=2)
    whole = predict(net, volume).values
    tiled = predict(net, volume, tiles=32).values
    # Places would differ by up to 0.16 if they were counted from the tile.
    torch.testing.assert_close(tiled[:, :8], whole[:, :8], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tiled[:, -8:], whole[:, -8:], atol=1e-5, rtol=1e-4)


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


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_call_gives_the_same(volume, ndim, precision):
    options = {"opposite": OPPOSITE, "precision": precision, "draws": 3, "seed": 5}
    net = make(ndim, depth=2)
    first = predict(net, volume, tiles=32, **options).values
    assert torch.equal(predict(net, volume, tiles=32, **options).values, first)


@pytest.mark.parametrize("ndim", [2, 3])
def test_draws_are_averaged(volume, ndim):
    net = make(ndim, depth=2)
    one = predict(net, volume).values
    two, three = (predict(net, volume, draws=n, seed=1).values for n in (2, 3))
    torch.testing.assert_close(two.sum(0), torch.ones(two.shape[1:]))
    # The first is the image as it is, and more draws continue fewer.
    second = 2 * two - one
    assert float((second - one).abs().mean()) > 1e-3
    third = 3 * three - 2 * two
    assert float((third - second).abs().mean()) > 1e-3
    assert float(third.min()) > -1e-5
    assert not torch.equal(predict(net, volume, draws=2, seed=2).values, two)


def test_what_is_shifted_is_brought_back(volume, monkeypatch):
    looks = [inference.View(shift=(3, 1, 2), mirrored=mirrored) for mirrored in (False, True)]
    # One convolution sees one voxel far, and beyond the faces zeros or black.
    net = make(convolutions=1)
    straight = predict_posteriors(net, volume)
    mirrored = predict_posteriors(net, volume.flip(0)).flip(1)[list(OPPOSITE)]
    monkeypatch.setattr(inference, "views", lambda draws, **_: looks)
    found = predict(net, volume, draws=2, opposite=OPPOSITE, tiles=32)
    expected = (straight + mirrored)[:, 9:55, 1:-1, 1:-1] / 2
    # A tile ends at voxel 16 of what is shifted by 3, and so on.
    found = found.whole()[:, 9:55, 1:-1, 1:-1]
    shown = [x for x in range(46) if float((found - expected)[:, x].abs().max()) < 1e-5]
    assert len(shown) >= 46 - 8


@pytest.mark.parametrize(
    ("machine", "known", "expected"),
    [
        ("x86_64", None, torch.float32),
        ("AMD64", {}, torch.float32),
        ("aarch64", None, torch.bfloat16),
        ("x86_64", {"architecture": "x86_64", "avx512_bf16": True}, torch.bfloat16),
        ("x86_64", {"architecture": "x86_64", "avx512_bf16": False}, torch.float32),
    ],
)
def test_a_cpu_computes_with_bf16_where_it_is_known_to_have_it(
    monkeypatch, machine, known, expected
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if known is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert inference._dtype("bf16", torch.device("cpu")) == expected


def failing(monkeypatch, times, error):
    """Let the network run out of memory some times; count its runs."""
    runs = []

    class Failing(inference.SlabForward):
        def __call__(self, x):
            runs.append(tuple(x.shape[2:]))
            if len(runs) <= times:
                raise error
            return super().__call__(x)

    monkeypatch.setattr(inference, "SlabForward", Failing)
    return runs


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_out_of_memory_leads_to_smaller_tiles(volume, monkeypatch, error):
    net = make(depth=2)
    expected = predict(net, volume, tiles=32).values
    runs = failing(monkeypatch, 1, error)
    found = predict(net, volume)
    assert found.warnings == (
        "out of memory on cpu; going on on cpu with 2 tiles of 32 x 16 x 14 voxels",
    )
    assert runs[0] == (48, 16, 14)
    torch.testing.assert_close(found.values, expected)


def test_out_of_memory_on_a_gpu_leads_to_the_cpu(volume, monkeypatch):
    net = make(depth=2)
    expected = predict(net, volume).values
    plan, _ = planning.plan_prediction(
        net, (48, 16, 14), volume.shape, device=torch.device("cuda"), dtype=torch.bfloat16
    )
    steps = [plan]
    while (following := planning.easier(steps[-1], torch.float32)) is not None:
        steps.append(following)
    assert [str(step.device) for step in steps[:3]] == ["cuda", "cuda", "cpu"]
    assert steps[1].footprint.passing <= 0.75 * plan.footprint.passing
    assert len(steps[2].tiling) == 1
    assert steps[2].dtype == torch.float32
    monkeypatch.setattr(inference, "plan_prediction", lambda *_, **__: (steps[2], ["said"]))
    found = predict(net, volume)
    assert found.warnings == ("said",)
    torch.testing.assert_close(found.values, expected)


def test_a_gpu_that_gives_way_to_the_cpu_says_what_that_takes(volume, monkeypatch):
    # The smallest tile there is, so that there is no easier one on the GPU.
    plan, _ = planning.plan_prediction(
        make(depth=2),
        volume.shape,
        volume.shape,
        device=torch.device("cuda"),
        dtype=torch.float32,
        memory_mb=1,
    )
    monkeypatch.setattr(inference, "plan_prediction", lambda *_, **__: (plan, []))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    class Full(inference.SlabForward):
        def __init__(self, segmenter, device, dtype):
            if device.type == "cuda":
                raise torch.OutOfMemoryError("CUDA")
            super().__init__(segmenter, device, dtype)

    monkeypatch.setattr(inference, "SlabForward", Full)
    first, second = predict(make(depth=2), volume).warnings
    assert first.startswith("out of memory on cuda; going on on cpu with ")
    assert "more than the 1 MB it may" in second


def test_no_memory_at_all_is_an_error(volume, monkeypatch):
    failing(monkeypatch, 99, MemoryError("no more"))
    with pytest.raises(MemoryError, match="no more"):
        predict(make(depth=2), volume)


def test_another_error_is_not_taken_for_a_lack_of_memory(volume, monkeypatch):
    runs = failing(monkeypatch, 99, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        predict(make(), volume)
    assert len(runs) == 1


def test_slices_run_out_of_memory_too(volume, monkeypatch):
    net = make(2, depth=2)
    expected = predict(net, volume).values
    failing(monkeypatch, 2, MemoryError())
    found = predict(net, volume)
    assert found.warnings[-1] == "out of memory on cpu; going on on cpu with 3 slices at a time"
    torch.testing.assert_close(found.values, expected)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"draws": 0}, ConfigError),
        ({"tiles": "small"}, ConfigError),
        ({"tiles": 0}, ConfigError),
        ({"memory_mb": -1}, ConfigError),
        ({"image": torch.zeros(4, 4)}, ShapeError),
    ],
)
def test_what_cannot_be_is_said(volume, options, error):
    with pytest.raises(error):
        predict(make(), **{"image": volume, **options})
