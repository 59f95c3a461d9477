"""Draws as records, and what is refused."""

import attrs
import numpy as np
import pytest
import torch

from l2s_pydra.config import SynthesisConfig
from l2s_pydra.errors import ConfigError, LabelError
from l2s_pydra.synthesis import GenerationLabels, SynthesisDraw, Synthesizer

MAP = torch.eye(32, 40, dtype=torch.uint8)
SIZES = [(32, 40), (24, 28, 20)]
NAMES = ("outside", "sided", "middle", "tissue")


def differences(one, two):
    """Names of the fields in which two draws differ, in type or to the last bit."""
    found = []
    for name, value in attrs.asdict(one, recurse=False).items():
        other = getattr(two, name)
        if isinstance(value, torch.Tensor):
            same = value.dtype == other.dtype and torch.equal(value, other)
        else:
            same = type(value) is type(other) and value == other
        if not same:
            found.append(name)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 7, 2**53 - 1])
def test_a_draw_comes_back_from_json_and_gives_the_same_image(make, size, seed):
    synthesizer = make(size, maps=3)
    draw = synthesizer.draw(seed)
    again = SynthesisDraw.from_json(draw.to_json())
    assert differences(draw, again) == []
    one, two = synthesizer.render([draw]), synthesizer.render([again])
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.target, two.target)
    assert torch.equal(one.noise(fine=True), two.noise(fine=True))


def test_the_seed_decides_everything(make):
    synthesizer = make(maps=4)
    assert differences(synthesizer.draw(5), synthesizer.draw(5)) == []
    draws = [synthesizer.draw(seed) for seed in range(40)]
    assert {draw.label_map for draw in draws} == {0, 1, 2, 3}
    assert {draw.flip for draw in draws} == {True, False}
    assert {int(np.argmax(draw.spacing)) for draw in draws} == {0, 1}
    assert len({draw.gamma for draw in draws}) == 40


def test_a_chosen_label_map_changes_nothing_else(make):
    synthesizer = make(maps=4)
    draw = synthesizer.draw(5)
    chosen = synthesizer.draw(5, label_map=(draw.label_map + 1) % 4)
    assert differences(chosen, draw) == ["label_map"]


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


def test_how_often_background_is_shown(make):
    rare = make(background_always=False, background_share=0.2)
    shown = np.mean([rare.draw(seed).background for seed in range(300)])
    # Three standard errors.
    assert shown == pytest.approx(0.2, abs=3 * (0.2 * 0.8 / 300) ** 0.5)
    assert all(make(background_share=0.0).draw(seed).background for seed in range(20))


def test_outside_must_be_the_first_label(labels):
    with pytest.raises(LabelError, match="must be in group 0"):
        attrs.evolve(labels, group=torch.tensor([1, 0, 1, 2, 3]))


def test_many_labels(make, plain):
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
        config=SynthesisConfig(**plain, oversampling=1),
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


def test_priors_replace_the_ranges_of_the_groups_they_name(make, sharp):
    synthesizer = make(**sharp, priors={"middle": (0.8, 0.05, 0.02, 0.0)}, prior_free_share=0.0)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_maps": []}, "no label map"),
        ({"label_maps": [torch.zeros(32, 40)]}, "holds torch.float32, not integers"),
        ({"label_maps": [torch.zeros(32, 40, dtype=torch.uint8)]}, "labels 0 to 0; at least two"),
        ({"label_maps": [torch.full((32, 40), 3, dtype=torch.uint8)]}, "labels 3 to 3"),
        ({"label_maps": [torch.zeros(0, 40, dtype=torch.uint8)]}, r"the size \(0, 40\)"),
        ({"label_maps": [MAP, torch.eye(32, 44, dtype=torch.uint8)]}, "label map 1 has the size"),
        ({"label_maps": [MAP * 13]}, "has the label 13, the table ends at 4"),
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
