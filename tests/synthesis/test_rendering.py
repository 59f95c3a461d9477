"""Images and targets of label maps, and of real images, are what the draw says."""

import attrs
import pytest
import torch
from scipy.ndimage import label as connected_components

from l2s_pydra.normalisation import normalise
from l2s_pydra.synthesis.intensity import dilate, pool, soft_labels

LEFT, RIGHT, TISSUE = 1, 2, 4
NAMES = ("outside", "sided", "middle", "tissue")
SIZES = [(32, 40), (24, 28, 20)]


@pytest.mark.parametrize("size", SIZES)
def test_shapes_and_targets(make, size):
    synthesizer = make(size)
    sample = synthesizer.render([synthesizer.draw(seed) for seed in (1, 2, 3)])
    working = [n // 2 for n in size]
    assert sample.image.shape == (3, 1, *working)
    assert sample.target.shape == (3, 4, *working)
    assert sample.groups.shape == (3, *size)
    assert sample.groups.dtype == torch.uint8
    torch.testing.assert_close(sample.target.sum(1), torch.ones(3, *working))
    assert float(sample.image.min()) >= 0
    assert float(sample.image.max()) <= 2
    assert sample.seeds == (1, 2, 3)
    torch.testing.assert_close(sample.normalise(sample.image * 3), normalise(sample.image * 3))


@pytest.mark.parametrize("size", SIZES)
def test_a_still_label_map_is_rendered_as_it_is(make, plain, labels, size):
    synthesizer = make(size, **plain)
    draw = synthesizer.draw(3)
    sample = synthesizer.render([draw])
    lookup = synthesizer.label_maps[0].long()
    assert torch.equal(sample.groups[0], labels.group[lookup])
    expected = soft_labels(labels.channel[lookup], 4, 2)
    torch.testing.assert_close(sample.target[0], expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_flip_mirrors_the_head_and_exchanges_the_sides(make, plain, size):
    synthesizer = make(size, **plain)
    draw = synthesizer.draw(3)
    straight = synthesizer.render([draw])
    flipped = synthesizer.render([attrs.evolve(draw, flip=True)])
    assert torch.equal(flipped.groups[0], straight.groups[0].flip(0))
    # Left (1) and right (2) change places, so that left stays where left is.
    mirrored = straight.target[0].flip(1)[[0, 2, 1, 3]]
    assert torch.equal(flipped.target[0], mirrored)
    middle = flipped.target.shape[2] // 2
    assert flipped.target[0, 1, :middle].sum() == flipped.target[0, 1].sum() > 0
    assert flipped.target[0, 2, middle:].sum() == flipped.target[0, 2].sum() > 0


@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_spread_of_a_group_is_that_of_its_working_voxels(make, plain, labels, oversampling):
    size = (96, 96) if oversampling < 3 else (144, 144)
    synthesizer = make(size, **plain, oversampling=oversampling)
    draw = attrs.evolve(
        synthesizer.draw(0),
        means=torch.tensor([[0, 0.3, 0.5, 0.7]]),
        stds=torch.tensor([[0, 0.02, 0.05, 0.1]]),
    )
    # The finished image is rescaled; undo that by the known means of two groups.
    sample = synthesizer.render([draw])
    shares = soft_labels(sample.groups[0], 4, oversampling)
    pure = [sample.image[0, 0][share == 1] for share in shares]
    scale = float((pure[3].mean() - pure[1].mean()) / (0.7 - 0.3))
    for values, std in zip(pure[1:], draw.stds[0, 1:].tolist(), strict=True):
        # Standard error of a standard deviation: 1 / sqrt(2 n).
        tolerance = 5 / (2 * len(values)) ** 0.5
        assert float(values.std()) / scale == pytest.approx(std, rel=tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_background_off_removes_background_tissue_only(make, still, size):
    synthesizer = make(size, **still, background_always=False)
    draw = attrs.evolve(synthesizer.draw(8), background=True)
    shown = synthesizer.render([draw])
    hidden = synthesizer.render([attrs.evolve(draw, background=False)])
    lookup = synthesizer.label_maps[0]
    assert (shown.groups[0][lookup == TISSUE] == NAMES.index("tissue")).all()
    assert (hidden.groups[0][lookup == TISSUE] == 0).all()
    kept = lookup != TISSUE
    assert torch.equal(hidden.groups[0][kept], shown.groups[0][kept])
    assert torch.equal(hidden.target, shown.target)


@pytest.mark.parametrize("size", SIZES)
def test_a_real_image_moves_with_its_labels(make, plain, size):
    synthesizer = make(size, **plain)
    channels = synthesizer.labels.channel[synthesizer.label_maps[0].long()]
    values = torch.tensor([0.0, 20.0, 30.0, 40.0])
    draw = synthesizer.draw(3)
    image, target = synthesizer.augment(values[channels], channels, draw, opposite=(0, 2, 1, 3))
    torch.testing.assert_close(target, soft_labels(channels, 4, 2))
    expected = normalise(pool(values[channels][None, None], 2))[0, 0]
    torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)

    shift = torch.zeros(len(size))
    shift[1] = 4.0
    moved, labels = synthesizer.augment(
        values[channels], channels, attrs.evolve(draw, translation=shift), opposite=(0, 2, 1, 3)
    )
    # The field says where a voxel comes from: content moves by -4 fine, -2 working voxels.
    inner = (slice(None), slice(2, -4))
    torch.testing.assert_close(moved[inner], image.roll(-2, 1)[inner], atol=1e-4, rtol=0)
    assert torch.equal(labels[(slice(None), *inner)], target.roll(-2, 2)[(slice(None), *inner)])


@pytest.mark.parametrize("size", SIZES)
def test_a_mirrored_real_image_exchanges_its_sides(make, plain, size):
    synthesizer = make(size, **plain)
    channels = synthesizer.labels.channel[synthesizer.label_maps[0].long()]
    values = torch.tensor([0.0, 20.0, 30.0, 40.0])
    draw = synthesizer.draw(3)
    image, target = synthesizer.augment(values[channels], channels, draw, opposite=(0, 2, 1, 3))
    mirrored = attrs.evolve(draw, flip=True)
    flipped, exchanged = synthesizer.augment(
        values[channels], channels, mirrored, opposite=(0, 2, 1, 3)
    )
    torch.testing.assert_close(flipped, image.flip(0), atol=1e-4, rtol=0)
    assert torch.equal(exchanged, target.flip(1)[[0, 2, 1, 3]])


@pytest.mark.parametrize("size", SIZES)
def test_a_crop_is_cut_from_the_whole(make, sharp, size):
    """But for what depends on the number of voxels: noise, resolution and normalisation."""
    sides = tuple(n // 4 for n in size)
    whole, crop = make(size, **sharp), make(size, **sharp, crop=sides)
    starts = set()
    for seed in range(6):
        draw = attrs.evolve(crop.draw(seed), flip=False)
        assert all(0 <= a <= n // 2 - s for a, n, s in zip(draw.start, size, sides, strict=True))
        starts.add(draw.start)
        small, large = (
            crop.render([draw]),
            whole.render([attrs.evolve(draw, start=(0,) * len(size))]),
        )
        window = tuple(slice(a, a + s) for a, s in zip(draw.start, sides, strict=True))
        torch.testing.assert_close(small.target[0], large.target[0][(slice(None), *window)])
        assert small.image.shape[2:] == sides
        # The bias field goes on over the border of the crop.
        flat = torch.ones(1, 1, *size)
        expected = large.finish(flat)[0, 0][window]
        inner = flat[(..., *(slice(2 * s) for s in sides))]
        torch.testing.assert_close(small.finish(inner)[0, 0], expected)
    assert len(starts) > 1


def test_channels_share_the_head_and_not_the_contrast(make, sharp):
    synthesizer = make(**sharp, channels=2)
    draw = synthesizer.draw(3)
    sample = synthesizer.render([draw])
    assert sample.image.shape == (1, 2, 16, 20)
    assert sample.target.shape == (1, 4, 16, 20)
    assert draw.means.shape == (2, 4)
    for number in range(2):
        one = attrs.evolve(
            draw,
            means=draw.means[number : number + 1],
            stds=0 * draw.stds[:1],
            gamma=draw.gamma[number : number + 1],
            log_bias=draw.log_bias[number : number + 1],
            noise_std=(0.0,),
        )
        both = attrs.evolve(draw, stds=0 * draw.stds, noise_std=(0.0, 0.0))
        alone = make(**sharp).render([one]).image[0, 0]
        torch.testing.assert_close(synthesizer.render([both]).image[0, number], alone)


def test_random_stripping_keeps_a_margin(make, still):
    synthesizer = make((48, 60), **still, strip_share=1.0, strip_margin_mm=20.0)
    margins = set()
    for seed in range(8):
        draw = synthesizer.draw(seed)
        assert not draw.background
        sample = synthesizer.render([draw])
        lookup = synthesizer.label_maps[0]
        near = dilate((lookup > 0) & (lookup != TISSUE), round(draw.margin))
        assert torch.equal(sample.groups[0] > 0, (lookup > 0) & near)
        margins.add(int((sample.groups > 0).sum()))
    assert len(margins) > 3
    assert all(make(strip_share=0.0).draw(seed).background for seed in range(20))


@pytest.mark.parametrize("size", SIZES)
def test_the_deformation_never_folds(make, size):
    """Strongest displacements: the Jacobian, by differences, stays above 0."""
    synthesizer = make(size, nonlinear_std_mm=50.0, nonlinear_spacing_mm=12.0, flip=0.0)
    lowest = []
    for seed in range(10):
        draw = synthesizer.draw(seed)
        field = synthesizer.field(draw).double()
        columns = [
            torch.diff(field, dim=axis + 1)[(slice(None), *(slice(n - 1) for n in size))]
            for axis in range(len(size))
        ]
        jacobian = torch.linalg.det(torch.stack(columns, -1).movedim(0, -2))
        lowest.append(float(jacobian.min() / torch.linalg.det(draw.matrix.double())))
    assert min(lowest) > 0
    # The bound is used: some voxels shrink by far.
    assert min(lowest) < 0.5


def test_labels_after_the_warp_are_labels_of_before(make):
    synthesizer = make((48, 60), oversampling=1)
    for seed in range(10):
        sample = synthesizer.render([synthesizer.draw(seed)])
        assert sample.target.dtype == torch.uint8
        assert set(sample.target.unique().tolist()) <= {0, 1, 2, 3}
        # Blocks stay in one piece.
        _, pieces = connected_components((sample.target[0] == 3).numpy())
        assert pieces == 1


def test_lesions_lie_inside_the_largest_structure(make, plain):
    settings = {**plain, "lesion_share": 1.0, "lesion_radius_mm": 6.0}
    with_lesions, without = make((64, 80), **settings), make((64, 80), **plain)
    changed = 0
    for seed in range(5):
        draw = attrs.evolve(with_lesions.draw(seed), stds=torch.zeros(1, 4))
        sample = with_lesions.render([draw])
        plain = without.render([attrs.evolve(draw, lesions=draw.lesions[:0])])
        assert torch.equal(sample.target, plain.target)
        fine = without.label_maps[0]
        inside = pool(((fine == LEFT) | (fine == RIGHT))[None, None].float(), 2) > 0
        different = (sample.image - plain.image).abs() > 1e-4
        # Normalisation may shift everything; what differs beyond that is inside.
        outside = (sample.image - plain.image)[~inside & (plain.image > 0)]
        if float(outside.abs().max()) < 1e-4:
            assert not different[~inside].any()
            changed += int(different.any())
    assert changed >= 1


# Skipped where there is no GPU: it compares one with the CPU, which nothing else can stand in for.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", SIZES)
def test_the_same_draw_gives_the_same_image_on_a_gpu(make, size):
    synthesizer = make(size, maps=2, motion_share=0.5, ghost_share=0.5, lesion_share=0.5)
    for seed in range(10):
        draw = synthesizer.draw(seed)
        cpu, gpu = synthesizer.render([draw]), synthesizer.render([draw], "cuda").to("cpu")
        different = (cpu.image - gpu.image).abs() > 1e-3
        assert float(different.float().mean()) < 0.01
        assert float((cpu.target - gpu.target).abs().mean()) < 1e-3
        again = synthesizer.render([draw], "cuda").to("cpu")
        assert torch.equal(gpu.image, again.image)
