"""Draws as records, rendering, and what an image is made of."""

import attrs
import numpy as np
import pytest
import torch
from scipy.ndimage import label as connected_components

from l2s_pydra.config import SynthesisConfig
from l2s_pydra.errors import ConfigError, LabelError
from l2s_pydra.normalisation import normalise
from l2s_pydra.synthesis import GenerationLabels, SynthesisDraw, Synthesizer
from l2s_pydra.synthesis.intensity import dilate, pool, soft_labels
from l2s_pydra.synthesis.sample import acquire, add_noise

# Generation labels: outside, left, right, middle, and tissue that is background to the segmenter.
LEFT, RIGHT, MIDDLE, TISSUE = 1, 2, 3, 4
NAMES = ("outside", "sided", "middle", "tissue")
STILL = {
    "rotation_deg": 0,
    "scaling": 0,
    "shearing": 0,
    "translation_mm": 0,
    "nonlinear_std_mm": 0,
    "flip": 0,
}
SHARP = {"resolution_share": 0, "ghost_share": 0, "motion_share": 0}
PLAIN = {**STILL, **SHARP, "bias_std": 0, "gamma_std": 0, "noise_std": 0}
SIZES = [(32, 40), (24, 28, 20)]


def label_map(size):
    """Tissue around a left, a middle and a right block, with air around it all."""
    labels = torch.zeros(size, dtype=torch.uint8)
    labels[tuple(slice(n // 8, -(n // 8)) for n in size)] = TISSUE
    inner = [slice(n // 4, -(n // 4)) for n in size[1:]]
    x = size[0]
    labels[(slice(x // 4, 5 * x // 12), *inner)] = LEFT
    labels[(slice(5 * x // 12, 7 * x // 12), *inner)] = MIDDLE
    labels[(slice(7 * x // 12, 3 * x // 4), *inner)] = RIGHT
    return labels


@pytest.fixture
def labels():
    return GenerationLabels(
        group=torch.tensor([0, 1, 1, 2, 3], dtype=torch.uint8),
        channel=torch.tensor([0, 1, 2, 3, 0]),
        group_names=NAMES,
        swap=torch.tensor([0, RIGHT, LEFT, MIDDLE, TISSUE], dtype=torch.uint8),
        n_channels=4,
    )


@pytest.fixture
def make(labels):
    def make(size=SIZES[0], *, background_always=True, maps=1, **settings):
        return Synthesizer(
            label_maps=[label_map(size).roll(i, 0) for i in range(maps)],
            labels=labels,
            config=SynthesisConfig(**settings),
            spacing_mm=2.0,
            background_always=background_always,
        )

    return make


def equal(one, two):
    for name, value in attrs.asdict(one, recurse=False).items():
        other = getattr(two, name)
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype, name
            assert torch.equal(value, other), name
        else:
            assert type(value) is type(other), name
            assert value == other, name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 7, 2**53 - 1])
def test_a_draw_comes_back_from_json_and_gives_the_same_image(make, size, seed):
    synthesizer = make(size, maps=3)
    draw = synthesizer.draw(seed)
    again = SynthesisDraw.from_json(draw.to_json())
    equal(draw, again)
    one, two = synthesizer.render([draw]), synthesizer.render([again])
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.target, two.target)
    assert torch.equal(one.noise(fine=True), two.noise(fine=True))


def test_the_seed_decides_everything(make):
    synthesizer = make(maps=4)
    equal(synthesizer.draw(5), synthesizer.draw(5))
    draws = [synthesizer.draw(seed) for seed in range(40)]
    assert {draw.label_map for draw in draws} == {0, 1, 2, 3}
    assert {draw.flip for draw in draws} == {True, False}
    assert {int(np.argmax(draw.spacing)) for draw in draws} == {0, 1}
    assert len({draw.gamma for draw in draws}) == 40


def test_a_chosen_label_map_changes_nothing_else(make):
    synthesizer = make(maps=4)
    draw = synthesizer.draw(5)
    chosen = synthesizer.draw(5, label_map=(draw.label_map + 1) % 4)
    equal(attrs.evolve(chosen, label_map=draw.label_map), draw)


def test_without_appearance_only_gamma_bias_and_noise_are_neutral(make):
    synthesizer = make(maps=4)
    draw, plain = synthesizer.draw(5), synthesizer.draw(5, appearance=False)
    assert (plain.gamma, plain.noise_std) == ((1.0,), (0.0,))
    assert not plain.log_bias.any()
    assert not plain.anisotropic
    assert not len(plain.movements)
    assert plain.ghosts[2] == 0
    assert plain.stds.shape == draw.stds.shape


def test_without_appearance_the_resolution_is_that_of_an_acquisition(make):
    synthesizer = attrs.evolve(make(), acquisitions=[(1.0, 3.0), (2.5, 0.5)])
    draws = [synthesizer.draw(seed, appearance=False) for seed in range(30)]
    assert {draw.spacing for draw in draws} == {(1.0, 3.0), (2.5, 1.0)}
    assert all(draw.thickness == draw.spacing for draw in draws)


def test_draws_stay_in_their_ranges(make):
    synthesizer = make((24, 28, 20), mean_range=(0.2, 0.6), std_range=(0.01, 0.05))
    config, voxel = synthesizer.config, synthesizer.fine_spacing_mm
    assert voxel == 1.0
    draws = [synthesizer.draw(seed) for seed in range(200)]
    means = torch.cat([draw.means for draw in draws])
    stds = torch.cat([draw.stds for draw in draws])
    assert not means[:, 0].any()
    assert not stds[:, 0].any()
    assert 0.2 <= float(means[:, 1:].min()) < 0.22 < 0.58 < float(means[:, 1:].max()) <= 0.6
    assert 0.01 <= float(stds[:, 1:].min()) < 0.012 < 0.048 < float(stds[:, 1:].max()) <= 0.05
    shifts = torch.stack([draw.translation for draw in draws]) * voxel
    assert 0.9 * config.translation_mm < float(shifts.abs().max()) <= config.translation_mm
    scale = torch.stack([torch.linalg.det(draw.matrix) for draw in draws])
    assert 1 / 1.2**3 <= float(scale.min()) < float(scale.max()) <= 1 / 0.8**3
    spacing = np.array([draw.spacing for draw in draws])
    thickness = np.array([draw.thickness for draw in draws])
    lowered = (spacing > 1).any(1)
    assert abs(lowered.mean() - config.resolution_share) < 0.1
    alike = (spacing > 1).all(1)
    assert abs(alike[lowered].mean() - config.isotropic_share) < 0.1
    assert spacing[alike].max() <= config.spacing_isotropic_mm / synthesizer.spacing_mm
    assert 3.5 < spacing.max() <= config.spacing_slices_mm / synthesizer.spacing_mm
    assert (thickness >= 1).all()
    assert (thickness <= spacing).all()
    assert abs(np.mean([draw.flip for draw in draws]) - config.flip) < 0.1
    assert max(draw.noise_std[0] for draw in draws) <= config.noise_std
    assert abs(np.mean([draw.rician for draw in draws]) - config.rician_share) < 0.1
    # The share of exponents within one standard deviation of log gamma.
    assert np.mean(np.abs(np.log([d.gamma[0] for d in draws])) < config.gamma_std) == pytest.approx(
        0.68, abs=0.1
    )


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
def test_a_batch_is_its_images_one_by_one(make, size):
    synthesizer = make(size, maps=2)
    draws = [synthesizer.draw(seed) for seed in (4, 5, 6)]
    batch = synthesizer.render(draws)
    fine = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0))
    for i, draw in enumerate(draws):
        alone = synthesizer.render([draw])
        for name in ("image", "target", "groups"):
            assert torch.equal(getattr(alone, name)[0], getattr(batch, name)[i]), name
        for kind in (True, False):
            assert torch.equal(alone.noise(fine=kind)[0], batch.noise(fine=kind)[i])
        assert torch.equal(alone.finish(fine[i : i + 1])[0], batch.finish(fine)[i])


@pytest.mark.parametrize("size", SIZES)
def test_a_still_label_map_is_rendered_as_it_is(make, labels, size):
    synthesizer = make(size, **PLAIN)
    draw = synthesizer.draw(3)
    sample = synthesizer.render([draw])
    lookup = synthesizer.label_maps[0].long()
    assert torch.equal(sample.groups[0], labels.group[lookup])
    expected = soft_labels(labels.channel[lookup], 4, 2)
    torch.testing.assert_close(sample.target[0], expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_flip_mirrors_the_head_and_exchanges_the_sides(make, size):
    synthesizer = make(size, **PLAIN)
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
def test_spread_of_a_group_is_that_of_its_working_voxels(make, labels, oversampling):
    size = (96, 96) if oversampling < 3 else (144, 144)
    synthesizer = make(size, **PLAIN, oversampling=oversampling)
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
def test_background_off_removes_background_tissue_only(make, size):
    synthesizer = make(size, **STILL, background_always=False)
    draw = attrs.evolve(synthesizer.draw(8), background=True)
    shown = synthesizer.render([draw])
    hidden = synthesizer.render([attrs.evolve(draw, background=False)])
    lookup = synthesizer.label_maps[0]
    assert (shown.groups[0][lookup == TISSUE] == NAMES.index("tissue")).all()
    assert (hidden.groups[0][lookup == TISSUE] == 0).all()
    kept = lookup != TISSUE
    assert torch.equal(hidden.groups[0][kept], shown.groups[0][kept])
    assert torch.equal(hidden.target, shown.target)


def test_how_often_background_is_shown(make):
    rare = make(background_always=False, background_share=0.2)
    shown = np.mean([rare.draw(seed).background for seed in range(300)])
    # Three standard errors.
    assert shown == pytest.approx(0.2, abs=3 * (0.2 * 0.8 / 300) ** 0.5)
    assert all(make(background_share=0.0).draw(seed).background for seed in range(20))


@pytest.mark.parametrize("size", SIZES)
def test_outside_is_black_before_noise(make, size):
    settings = {**STILL, **SHARP, "noise_std": 0}
    synthesizer = make(size, **settings)
    for seed in range(5):
        sample = synthesizer.render([synthesizer.draw(seed)])
        empty = pool((sample.groups[:, None] == 0).float(), 2) == 1
        assert empty.any()
        fine = torch.rand(sample.groups.shape)[:, None] * (sample.groups[:, None] > 0)
        # To rounding in the powers of gamma.
        assert float(sample.finish(fine)[empty].abs().max()) < 1e-7
        assert float(sample.image[empty].max()) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_finish_follows_the_draw_and_is_differentiable(make, size):
    synthesizer = make(size, resolution_share=1.0, motion_share=1.0, ghost_share=1.0)
    draw = synthesizer.draw(11)
    sample = synthesizer.render([draw])
    fine = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    finished = sample.finish(fine)
    assert finished.shape == sample.image.shape
    (slope,) = torch.autograd.grad(finished.sum(), fine)
    assert slope.isfinite().all()
    assert (slope != 0).any()
    neutral = attrs.evolve(
        draw,
        gamma=(1.0,),
        log_bias=torch.zeros_like(draw.log_bias),
        ghosts=(0, 1, 0.0),
        movements=draw.movements[:0],
        spacing=(1.0,) * len(size),
        thickness=(1.0,) * len(size),
    )
    plain = attrs.evolve(sample, draws=(neutral,))
    torch.testing.assert_close(plain.finish(fine), pool(fine, 2))


def test_noise_depends_on_seed_and_stream_only(make):
    synthesizer = make()
    one = synthesizer.render([synthesizer.draw(3), synthesizer.draw(4)])
    two = synthesizer.render([attrs.evolve(synthesizer.draw(9), seed=4)])
    assert torch.equal(one.noise()[1], two.noise()[0])
    assert not torch.equal(one.noise()[0], one.noise()[1])
    assert not torch.equal(one.noise(), one.noise(stream=1))
    assert one.noise().shape == one.image.shape
    assert one.noise(fine=True).shape == (2, 1, *synthesizer.shape)
    # Independent of the noise in the image: no seed is used twice.
    fine = one.noise(fine=True).flatten()
    assert abs(float(fine.mean())) < 5 / len(fine) ** 0.5
    assert float(fine.std()) == pytest.approx(1, abs=5 / (2 * len(fine)) ** 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_stripped_heads_are_silent_outside(make, size):
    settings = {**STILL, **SHARP, "noise_std": 0.2, "rician_share": 0}
    stripped = make(size, background_always=False, **settings)
    whole = make(size, background_always=True, **settings)
    draw = attrs.evolve(stripped.draw(2), noise_std=(0.2,))
    silent, loud = stripped.render([draw]), whole.render([draw])
    outside = pool((silent.groups == 0)[:, None].float(), 2) == 1
    assert not silent.noise()[outside].any()
    assert float(silent.image[outside].std()) < 1e-6
    assert len(loud.image[outside].unique()) > 100
    # Inside, the noise is the same.
    assert torch.equal(silent.noise()[~outside], loud.noise()[~outside])
    assert torch.equal(silent.noise(fine=True), loud.noise(fine=True))


def test_outside_must_be_the_first_label(labels):
    with pytest.raises(LabelError, match="must be in group 0"):
        attrs.evolve(labels, group=torch.tensor([1, 0, 1, 2, 3]))


@pytest.mark.parametrize("size", SIZES)
def test_a_real_image_moves_with_its_labels(make, size):
    synthesizer = make(size, **PLAIN)
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
def test_a_mirrored_real_image_exchanges_its_sides(make, size):
    synthesizer = make(size, **PLAIN)
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


def test_many_labels(make):
    """More labels than one byte can tell apart."""
    count = 300
    numbers = torch.arange(count)
    labels = GenerationLabels(
        group=numbers.to(torch.int16),
        channel=numbers,
        group_names=("outside", *(f"group {i}" for i in range(1, count))),
        swap=numbers.to(torch.int16),
        n_channels=count,
    )
    size = (40, 40)
    values = torch.arange(1600).view(size) % count
    synthesizer = Synthesizer(
        label_maps=[values.to(torch.int16)],
        labels=labels,
        config=SynthesisConfig(**PLAIN, oversampling=1),
        spacing_mm=1.0,
    )
    sample = synthesizer.render([synthesizer.draw(0)])
    assert torch.equal(sample.target[0].long(), values)
    assert torch.equal(sample.groups[0].long(), values)
    image, target = synthesizer.augment(
        values.float(), values, synthesizer.draw(0), opposite=range(count)
    )
    assert torch.equal(target.long(), values)
    assert image.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_a_crop_is_cut_from_the_whole(make, size):
    """But for what depends on the number of voxels: noise, resolution and normalisation."""
    sides = tuple(n // 4 for n in size)
    whole, crop = make(size, **SHARP), make(size, **SHARP, crop=sides)
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


def test_channels_share_the_head_and_not_the_contrast(make):
    synthesizer = make(**SHARP, channels=2)
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
        alone = make(**SHARP).render([one]).image[0, 0]
        torch.testing.assert_close(synthesizer.render([both]).image[0, number], alone)


def test_priors_replace_the_ranges_of_the_groups_they_name(make):
    synthesizer = make(**SHARP, priors={"middle": (0.8, 0.05, 0.02, 0.0)}, prior_free_share=0.0)
    draws = [synthesizer.draw(seed) for seed in range(300)]
    means = torch.cat([draw.means for draw in draws])
    middle = NAMES.index("middle")
    assert float(means[:, middle].mean()) == pytest.approx(0.8, abs=5 * 0.05 / 300**0.5)
    assert float(means[:, middle].std()) == pytest.approx(0.05, rel=0.2)
    assert float(means[:, 1].std()) == pytest.approx(1 / 12**0.5, rel=0.1)
    assert all(draw.stds[0, middle] == pytest.approx(0.02) for draw in draws)
    mixed = make(priors={"middle": (0.8, 0.0, 0.02, 0.0)}, prior_free_share=0.5)
    share = np.mean(
        [float(mixed.draw(seed).means[0, middle]) != pytest.approx(0.8) for seed in range(300)]
    )
    assert share == pytest.approx(0.5, abs=0.1)


def test_random_stripping_keeps_a_margin(make):
    synthesizer = make((48, 60), **STILL, strip_share=1.0, strip_margin_mm=20.0)
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


def test_lesions_lie_inside_the_largest_structure(make):
    settings = {**PLAIN, "lesion_share": 1.0, "lesion_radius_mm": 6.0}
    with_lesions, without = make((64, 80), **settings), make((64, 80), **PLAIN)
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


def test_rician_noise_is_never_negative_and_lifts_the_dark(make):
    synthesizer = make((96, 96), **{**STILL, **SHARP}, noise_std=0.1, oversampling=1)
    draw = attrs.evolve(synthesizer.draw(0), noise_std=(0.1,), means=torch.zeros(1, 4),
                        stds=torch.zeros(1, 4), gamma=(1.0,),
                        log_bias=torch.zeros_like(synthesizer.draw(0).log_bias))  # fmt: skip
    signal = torch.zeros(1, 96, 96)
    magnitude = add_noise(signal, attrs.evolve(draw, rician=True))
    # Rayleigh: mean sigma sqrt(pi / 2).
    assert float(magnitude.min()) >= 0
    assert float(magnitude.mean()) == pytest.approx(0.1 * (np.pi / 2) ** 0.5, rel=0.02)
    gaussian = add_noise(signal, attrs.evolve(draw, rician=False))
    assert float(gaussian.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(gaussian.mean())) < 5 * 0.1 / 96


def test_noise_is_added_at_the_resolution_of_the_acquisition(make):
    """Along thick slices noise is as smooth as linear interpolation makes it, across it is white."""
    synthesizer = make((96, 96), **PLAIN, oversampling=1)
    draw = attrs.evolve(
        synthesizer.draw(0),
        noise_std=(0.1,),
        rician=False,
        spacing=(4.0, 1.0),
        thickness=(4.0, 1.0),
    )
    image = acquire(torch.zeros(1, 96, 96), draw, None)[0]

    def correlation(axis):
        a, b = image.narrow(axis, 0, 95), image.narrow(axis, 1, 95)
        return float((a * b).mean() / image.square().mean())

    assert correlation(0) > 0.8
    assert abs(correlation(1)) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_maps": []}, "no label map"),
        ({"label_maps": [torch.zeros(32, 40)]}, "holds torch.float32, not integers"),
        ({"label_maps": [torch.zeros(32, 40, dtype=torch.uint8)]}, "labels 0 to 0; at least two"),
        ({"label_maps": [torch.full((32, 40), 3, dtype=torch.uint8)]}, "labels 3 to 3"),
        ({"label_maps": [torch.zeros(0, 40, dtype=torch.uint8)]}, r"the size \(0, 40\)"),
        ({"label_maps": [label_map((32, 40)), label_map((32, 44))]}, "label map 1 has the size"),
        ({"label_maps": [label_map((32, 40)) + 9]}, "has the label 13, the table ends at 4"),
        ({"spacing_mm": 0.0}, "voxel size is a number of mm above 0, not 0"),
        ({"spacing_mm": float("nan")}, "voxel size is a number of mm above 0, not nan"),
        ({"config": SynthesisConfig(crop=(20, 8))}, r"crop of \(20, 8\) does not fit"),
        ({"config": SynthesisConfig(crop=(8, 8, 8))}, "does not fit into the working grid"),
        ({"config": SynthesisConfig(oversampling=3)}, "cannot be pooled by 3"),
    ],
)
def test_what_cannot_be_rendered_is_refused_at_once(make, change, message):
    with pytest.raises((LabelError, ConfigError), match=message):
        attrs.evolve(make(), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"channel": torch.tensor([0, 1, 2, 7, 0])},
            "'channel' goes from 0 to 7; values from 0 to 3",
        ),
        ({"swap": torch.tensor([0, 1, 2])}, "'swap' has 3 generation labels, 'group' has 5"),
        ({"group": torch.tensor([0, 1, 1, 2, 9])}, "'group' goes from 0 to 9"),
    ],
)
def test_tables_that_do_not_fit_are_refused(labels, change, message):
    with pytest.raises(LabelError, match=message):
        attrs.evolve(labels, **change)


@pytest.mark.parametrize(
    "settings",
    [
        {"mean_range": (0.6, 0.2)},
        {"std_range": (-0.1, 0.2)},
        {"crop": (0, 4)},
        {"priors": {"x": (1, 2)}},
        {"priors": {"x": (1, -2, 0, 0)}},
        {"noise_std": -1},
    ],
)
def test_ranges_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"range|negative|crop|prior|>="):
        SynthesisConfig(**settings)


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
