"""Images of which only a slab is seen."""

import json

import pytest
import torch

from l2s_pydra.normalisation import normalise
from l2s_pydra.synthesis import SynthesisDraw

SIZES = [(24, 28, 32), (40, 36)]


def covered(synthesizer, count=40):
    """Draws with a slab."""
    draws = [synthesizer.draw(seed) for seed in range(count)]
    return [draw for draw in draws if draw.coverage is not None]


@pytest.mark.parametrize("repeat_voxels", [0, 2])
@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_seen_is_black_and_background(make, size, oversampling, repeat_voxels):
    whole = make(size, oversampling=oversampling)
    part = make(
        size,
        oversampling=oversampling,
        coverage_share=1.0,
        coverage_least_mm=4,
        coverage_repeat_mm=repeat_voxels * whole.spacing_mm,
    )
    for seed in range(6):
        draw = part.draw(seed)
        axis, first, count = draw.coverage
        got, all_of_it = part.render([draw]), whole.render([whole.draw(seed)])
        image, target = got.image[0, 0].movedim(axis, 0), got.target[0].movedim(axis - len(size), 0)
        reference = all_of_it.target[0].movedim(axis - len(size), 0)
        # Slice by slice: those that are seen, those that repeat the outermost ones, and the rest
        for k in range(len(image)):
            beyond = max(first - k, k - (first + count - 1), 0)
            if beyond > (repeat_voxels if len(size) == 3 else 0):
                assert not image[k].any()
                outside = target[k] if target.ndim == len(size) else 1 - target[k, 0]
                assert not outside.any()
            else:
                assert torch.equal(target[k], reference[min(max(k, first), first + count - 1)])
                assert torch.equal(image[k], image[min(max(k, first), first + count - 1)])
        # The slab is the same head, on the range of intensities of the slab
        slab = all_of_it.image[0, 0].movedim(axis, 0)[first : first + count]
        mine = image[first : first + count]
        inside = (slab > 0) & (slab < 2) & (mine > 0) & (mine < 2)
        assert float(torch.corrcoef(torch.stack([slab[inside], mine[inside]]))[0, 1]) > 0.9999
        torch.testing.assert_close(mine, normalise(mine[None, None])[0, 0], atol=0.02, rtol=0)


def test_slabs_are_as_frequent_and_as_thick_as_asked_for(make):
    synthesizer = make((24, 28, 32), coverage_share=0.5, coverage_least_mm=6)
    draws = covered(synthesizer, 400)
    assert len(draws) == pytest.approx(200, abs=40)  # four standard deviations
    voxel = synthesizer.spacing_mm
    for axis, first, count in (draw.coverage for draw in draws):
        size = synthesizer.working_shape[axis]
        assert 6 / voxel - 0.5 <= count <= size
        assert 0 <= first <= size - count
    for axis in range(3):
        counts = [draw.coverage[2] for draw in draws if draw.coverage[0] == axis]
        assert min(counts) < 10 / voxel < 0.8 * synthesizer.working_shape[axis] < max(counts)


def test_slabs_are_no_thicker_than_asked_for(make):
    settings = {"coverage_share": 1.0, "coverage_least_mm": 6, "coverage_most_mm": 20}
    synthesizer = make((24, 28, 32), **settings)
    counts = [draw.coverage[2] * synthesizer.spacing_mm for draw in covered(synthesizer, 200)]
    assert len(counts) == 200
    half = synthesizer.spacing_mm / 2
    assert 6 - half <= min(counts) < 10
    assert 16 < max(counts) <= 20 + half
    # A slab is never thicker than the image, whatever is asked for
    small = make((24, 28, 32), **settings | {"coverage_least_mm": 1e3, "coverage_most_mm": None})
    for draw in covered(small, 20):
        axis, first, count = draw.coverage
        assert (first, count) == (0, small.working_shape[axis])


def test_slices_are_repeated_over_a_share_of_the_image_at_most(make):
    """As in scans of small heads that are to be segmented."""
    settings = {"coverage_share": 1.0, "coverage_repeat_mm": 1e3}
    assert make((24, 28, 32), **settings).draw(0).repeated == 2  # 12 % of 16
    assert make((24, 28, 32), crop=(8, 8, 8), **settings).draw(0).repeated == 1
    assert make((40, 36), **settings).draw(0).repeated == 0
    near = make((24, 28, 32), coverage_share=1.0, coverage_repeat_mm=2.0)
    assert near.draw(0).repeated == round(2.0 / near.spacing_mm)


def test_draws_of_older_records_and_of_learned_images_see_everything(make):
    synthesizer = make((24, 28, 32), coverage_share=1.0)
    assert synthesizer.draw(3, appearance=False).coverage is None
    with_slab, without = synthesizer.draw(3), make((24, 28, 32)).draw(3)
    assert torch.equal(with_slab.log_bias, without.log_bias)
    assert with_slab.noise_std == without.noise_std
    again = SynthesisDraw.from_json(with_slab.to_json())
    assert again.coverage == with_slab.coverage
    assert again.repeated == with_slab.repeated > 0
    record = json.loads(without.to_json())
    del record["coverage"], record["repeated"]
    old = SynthesisDraw.from_json(json.dumps(record))
    assert (old.coverage, old.repeated) == (None, 0)


def test_a_slab_is_told(make):
    synthesizer = make((24, 28, 32), coverage_share=1.0)
    draw = synthesizer.draw(0)
    axis, _, count = draw.coverage
    assert draw.summary(spacing_mm=2.0)["seen (mm)"] == f"{2 * count} along {'xyz'[axis]}"
    assert "seen (mm)" not in make((24, 28, 32)).draw(0).summary()
