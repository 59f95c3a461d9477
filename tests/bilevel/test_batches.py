"""What is drawn for a step, and how often."""

import attrs
import numpy as np
import pytest
import torch

from l2s_pydra.bilevel import batches as batches_module
from l2s_pydra.bilevel.training import Trainer
from l2s_pydra.normalisation import normalise

N_CLASSES = 4
OPPOSITE = (0, 2, 1, 3)


def test_random_contrast_is_a_map_of_intensities(config, data_of, same):
    """The same intensity everywhere in an image becomes the same one; black stays black."""
    trainer = Trainer(config(), data_of(), n_classes=N_CLASSES)
    plain, target = trainer.batches.real(3, 2, augmented=False)
    changed, same_target = trainer.batches.real(3, 2, augmented=False, remapped=1.0)
    assert torch.equal(target, same_target)
    for before, after in zip(plain, changed, strict=True):
        assert not torch.allclose(before, after, atol=0.05)
        flat = torch.tensor([[0.0], [0.3]]).repeat(1, 64).flatten()[None, :]
        assert remapped_levels(flat) == 2
        order = before.flatten().sort().indices
        # A continuous map: neighbours in intensity stay neighbours.
        jumps = after.flatten()[order].diff().abs()
        steps = before.flatten()[order].diff()
        assert float(jumps[steps < 1e-4].max()) < 0.05
    assert same(plain, trainer.batches.real(3, 2, augmented=False, remapped=0.0)[0])


def test_random_contrast_leaves_air_dark():
    """What is nearly black stays as it is, whatever becomes of the tissue."""
    air = torch.linspace(0, 0.04, 64)
    image = torch.cat([air, torch.linspace(0.04, 1, 4000)])
    for seed in range(20):
        made = batches_module.random_contrast(image, seed)
        assert float(made[:64].max()) < 0.2
        assert float(made[64:].std()) > 0.05


def remapped_levels(image):
    return len(batches_module.random_contrast(image, 5).unique())


def test_share_of_wide_draws(config, data_of):
    settings = config(training__wide_share=0.7)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    share = np.mean([trainer.kinds.learned(step) for step in range(1000)])
    # Three standard errors.
    assert share == pytest.approx(0.3, abs=3 * (0.3 * 0.7 / 1000) ** 0.5)
    # An augmentation of finished images has no wide draws.
    noise = Trainer(settings.evolve(augmentation__name="noise"), data_of(), n_classes=N_CLASSES)
    assert all(noise.kinds.learned(step) for step in range(100))


def test_learned_draws_with_a_random_contrast_leave_theta_alone(config, data_of, recorded):
    settings = config(training__learned_remap_share=0.5, training__steps=30)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    remapped = [step for step in range(30) if trainer.kinds.remapped(step)]
    assert 5 < len(remapped) < 25
    warmup = settings.training.theta_warmup_steps
    assert recorded(settings).moved() == [s for s in range(warmup, 30) if s not in remapped]
    plain = Trainer(config(training__mode="synthseg"), data_of(), n_classes=N_CLASSES)
    assert not any(plain.kinds.remapped(step) for step in range(30))

    sample = trainer.batches.sample(remapped[0], appearance=False)
    with torch.no_grad():
        before, after = trainer.augmentation(sample), trainer._learned(sample, remapped[0])
    for image, other, seed in zip(before, after, sample.seeds, strict=True):
        assert torch.equal(other[0], batches_module.random_contrast(image[0], seed))
        assert not torch.allclose(image, other, atol=0.05)


@pytest.mark.parametrize(("share", "chosen"), [(0.0, {2, 3}), (1.0, {0, 1}), (0.5, {0, 1, 2, 3})])
def test_share_of_own_label_maps(share, chosen, config, data_of):
    trainer = Trainer(config(training__own_label_share=share), data_of(), n_classes=N_CLASSES)
    maps = [draw.label_map for step in range(100) for draw in trainer.batches.draws(step)]
    assert set(maps) == chosen
    assert np.mean([m < 2 for m in maps]) == pytest.approx(share, abs=0.11)


def test_own_label_maps_are_enough(config, data_of):
    data = data_of()
    maps = data.synthesizer.label_maps[:2]
    data = attrs.evolve(data, synthesizer=attrs.evolve(data.synthesizer, label_maps=maps))
    trainer = Trainer(config(training__own_label_share=0.0), data, n_classes=N_CLASSES)
    assert {draw.label_map for step in range(20) for draw in trainer.batches.draws(step)} == {0, 1}


def test_real_batches_are_the_scans_or_their_mirror_images(config, data_of, same):
    data = data_of()
    trainer = Trainer(config(), data, n_classes=N_CLASSES)
    known = []
    for real in data.learn:
        image = normalise(real.image[None, None])[0, 0]
        known += [(image, real.target), (image.flip(0), real.target.flip(1)[list(OPPOSITE)])]
    seen = set()
    for step in range(20):
        images, targets = trainer.batches.real(step, 2, augmented=False)
        found = [
            next(i for i, (x, y) in enumerate(known) if same([image[0], target], [x, y]))
            for image, target in zip(images, targets, strict=True)
        ]
        # Each scan once before any comes again.
        assert {i // 2 for i in found} == {0, 1}
        seen.update(found)
    assert seen == {0, 1, 2, 3}
    assert trainer.batches.real(0, 5, augmented=False)[0].shape == (5, 1, 16, 16)
