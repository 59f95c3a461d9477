"""The loop: who sees which images, and what moves when."""

import numpy as np
import pytest
import torch

from l2s_pydra.bilevel.training import Trainer
from l2s_pydra.config import MODES
from l2s_pydra.errors import ConfigError

N_CLASSES = 4
STEPS, WARMUP = 9, 2


def test_theta_moves_at_every_step_after_the_warm_up(config, recorded):
    recorder = recorded(config())
    assert recorder.moved() == list(range(WARMUP, STEPS))
    assert recorder.trainer.state.theta_steps == STEPS - WARMUP
    for before, after in zip(recorder.theta[WARMUP:], recorder.theta[WARMUP + 1 :], strict=False):
        for key, value in after.items():
            # Adam: the first steps are as long as the learning rate, whatever the gradient.
            assert (value != before[key]).any(), key


def test_theta_moves_at_every_other_step(config, recorded):
    recorder = recorded(config(training__hypergradient_every=3))
    assert recorder.moved() == [3, 6]


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"learn2synth", "learn2synth-mixed"}))
@pytest.mark.parametrize("name", ["contrast", "noise"])
def test_theta_of_a_baseline_never_moves(mode, name, config, same, recorded):
    recorder = recorded(config(training__mode=mode, augmentation__name=name))
    assert recorder.moved() == []
    state = recorder.trainer.state
    assert state.theta_steps == 0
    assert same(state.theta_average, recorder.theta[0])


def test_theta_starts_at_the_moments_of_the_scans(config, data_of):
    start = Trainer(config(), data_of(), n_classes=N_CLASSES).theta_start
    assert start["mean/sided"] == pytest.approx(0.9)
    assert start["mean/tissue"] == pytest.approx(0.3)


def test_averages_are_those_of_the_iterates(config, recorded):
    recorder = recorded(config(training__phi_average=0.8, training__theta_average=0.6))
    phi, theta = dict(recorder.phi[0]), dict(recorder.theta[0])
    moves = 0
    for step in range(STEPS):
        decay = min(0.8, (1 + step) / (10 + step))
        phi = {k: decay * v + (1 - decay) * recorder.phi[step + 1][k] for k, v in phi.items()}
        if step >= WARMUP:
            moves += 1
            decay = min(0.6, moves / (moves + 1))
            theta = {
                k: decay * v + (1 - decay) * recorder.theta[step + 1][k] for k, v in theta.items()
            }
    state = recorder.trainer.state
    for key, value in phi.items():
        torch.testing.assert_close(state.phi_average[key], value)
    for key, value in theta.items():
        torch.testing.assert_close(state.theta_average[key], value)


def test_real_images_never_train_the_segmenter(config, data_of, train, same):
    """With theta held still, it learns the same from whatever real images there are."""
    still = config(training__theta_learning_rate=1e-30)
    one, two = train(still), train(still, data_of(real_seed=50))
    assert one.state.theta_steps == two.state.theta_steps == STEPS - WARMUP
    losses = [
        [row["real_loss"] for row in t.state.history if "real_loss" in row] for t in (one, two)
    ]
    assert all(a != b for a, b in zip(*losses, strict=True))
    assert same(one.state.phi, two.state.phi)
    assert same(one.state.phi_moments, two.state.phi_moments)
    # They reach it through theta alone.
    one, two = train(), train(data=data_of(real_seed=50))
    assert not same(one.state.theta, two.state.theta)
    assert not same(one.state.phi, two.state.phi)


def test_synthseg_never_sees_a_real_image(config, data_of, train, same):
    settings = config(training__mode="synthseg")
    one, two = train(settings), train(settings, data_of(real_seed=50))
    assert same(one.state.phi, two.state.phi)
    assert not any("real_loss" in row for row in one.state.history)


def test_supervised_never_sees_a_synthetic_image(config, data_of, train, same):
    settings = config(training__mode="supervised")
    one, two = train(settings), train(settings, data_of(map_shift=3))
    assert same(one.state.phi, two.state.phi)
    other = train(settings, data_of(real_seed=50))
    assert not same(one.state.phi, other.state.phi)


def kinds_of_steps(trainer):
    """What each step was trained on, as the log tells."""
    rows = []
    trainer.run(rows.append)
    return ["synthetic" if "synthesis_seconds" in row else "real" for row in rows]


@pytest.mark.parametrize("mode", ["mixed", "mixed-randomised", "learn2synth-mixed"])
def test_mixed_modes_see_both_kinds(mode, config, data_of):
    settings = config(training__mode=mode, training__steps=40, training__validate_every=40)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    kinds = kinds_of_steps(trainer)
    # Three standard errors.
    assert kinds.count("real") / 40 == pytest.approx(0.5, abs=3 * 0.5 / 40**0.5)
    assert (trainer.state.theta_steps > 0) == (mode == "learn2synth-mixed")


def test_finetuning_starts_where_synthseg_ends(config, data_of, train, same):
    tuned = train(config(training__mode="finetuned", training__steps=12))
    synthseg = train(config(training__mode="synthseg", training__steps=9))
    assert same(tuned.state.phi_tuned, synthseg.state.phi_average)
    kinds = kinds_of_steps(
        Trainer(
            config(training__mode="finetuned", training__steps=12), data_of(), n_classes=N_CLASSES
        )
    )
    assert kinds == ["synthetic"] * 9 + ["real"] * 3
    # Weights of before are not what is kept.
    assert tuned.state.best_step > 9


def test_averaged_finetuning_is_half_way(config, train, same):
    settings = config(training__steps=12, training__validate_every=12)
    one = train(settings.evolve(training__mode="finetuned")).state
    two = train(settings.evolve(training__mode="finetuned-averaged")).state
    assert same(one.phi_average, two.phi_average)
    for key, value in two.phi_best.items():
        middle = (one.phi_average[key] + one.phi_tuned[key]) / 2
        torch.testing.assert_close(value, middle)


def test_only_wide_draws_are_synthseg(config, train, same):
    one = train(config(training__wide_share=1.0))
    two = train(config(training__mode="synthseg", training__wide_share=0.0))
    assert one.state.theta_steps == 0
    assert same(one.state.phi, two.state.phi)


def test_it_learns(config, train):
    """Blocks that are told apart by intensity, in sixty steps."""
    settings = config(
        training__steps=60,
        training__learning_rate=1e-2,
        training__batch_size=4,
        training__theta_warmup_steps=20,
        training__hypergradient_every=4,
        training__validate_every=60,
        training__phi_average=0.9,
        synthesis__nonlinear_std_mm=1.0,
        synthesis__translation_mm=2.0,
    )
    state = train(settings).state
    losses = [row["synthetic_loss"] for row in state.history]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert state.best_dice > 0.3


def test_unknown_augmentation(config, data_of):
    with pytest.raises(ConfigError, match="unknown augmentation 'magic'"):
        Trainer(config(augmentation__name="magic"), data_of(), n_classes=N_CLASSES)
