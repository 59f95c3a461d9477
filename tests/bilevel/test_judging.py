"""When a training ends, what of it is kept, and what it tells."""

import numpy as np
import pytest
import torch

from l2s_pydra.bilevel import training, validation
from l2s_pydra.bilevel.training import Trainer

N_CLASSES = 4
STEPS, WARMUP = 9, 2


def test_time_ends_a_training(monkeypatch, config, data_of):
    """The learning rate decays with the time that is used up, and fine-tuning has its share."""
    settings = config(training__steps=1000, training__max_minutes=1.0, training__validate_every=500)
    clock = iter(float(i) for i in range(10**6))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    rates = []
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    state = trainer.run(lambda row: rates.append(row["learning_rate"]))
    assert 10 < state.step < 60
    assert state.seconds >= 60
    assert rates[-1] < 0.05 * max(rates)
    assert state.best_dice >= 0


def test_patience_ends_a_training(monkeypatch, config, data_of):
    settings = config(training__steps=100, training__validate_every=2, training__patience=3)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    script = iter([0.2, 0.5, 0.4, 0.4, 0.3, 0.9])
    monkeypatch.setattr(trainer, "score", lambda _: np.array([[next(script)]]))
    state = trainer.run()
    assert (state.step, state.best_step, state.best_dice) == (10, 4, 0.5)


@pytest.mark.parametrize("every", [4, 100])
def test_the_best_validation_is_kept(monkeypatch, every, config, data_of, same):
    nan = float("nan")
    script = {
        4: [[0.2, 0.4, nan], [0.4, nan, nan]],
        8: [[0.9, 0.5, nan], [0.7, nan, nan]],
        9: [[0.6, 0.6, nan], [0.6, nan, nan]],
    }
    settings = config(training__validate_every=every)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    averages = {}

    def score(segmenter):
        step = trainer.state.step
        averages[step] = {k: v.clone() for k, v in segmenter.state_dict().items()}
        return np.array(script[step])

    monkeypatch.setattr(trainer, "score", score)
    state = trainer.run()
    assert list(averages) == ([4, 8, 9] if every == 4 else [9])
    best = 8 if every == 4 else 9
    assert state.best_step == best
    assert state.best_dice == pytest.approx(np.nanmean(script[best]))
    assert state.best_per_class == pytest.approx(
        [0.8, 0.5, nan] if best == 8 else [0.6, 0.6, nan], nan_ok=True
    )
    assert same(state.phi_best, averages[best])
    dice = [row["validation_dice"] for row in state.history if "validation_dice" in row]
    assert dice == pytest.approx([np.nanmean(script[step]) for step in averages])


@pytest.mark.parametrize("ndim", [2, 3])
def test_scores_are_dice_on_whole_volumes(ndim, monkeypatch, config, data_of):
    data = data_of(ndim)
    (judge,) = data.validate
    truth = judge.target.argmax(0)

    def takes_right_for_left(segmenter, image, **options):
        assert image is judge.image
        return judge.target[[0, 1, 0, 3]] + judge.target[[3, 2, 3, 0]] * torch.tensor(
            [0, 1, 0, 0]
        ).view(-1, *[1] * (judge.target.ndim - 1))

    monkeypatch.setattr(validation, "predict_posteriors", takes_right_for_left)
    trainer = Trainer(config(ndim), data, n_classes=N_CLASSES)
    found = takes_right_for_left(None, judge.image).argmax(0)
    counts = [int((found == k).sum()) + int((truth == k).sum()) for k in (1, 2, 3)]
    both = [int(((found == k) & (truth == k)).sum()) for k in (1, 2, 3)]
    (scores,) = trainer.score(trainer.averaged)
    np.testing.assert_allclose(scores, 2 * np.array(both) / np.array(counts))
    assert scores[0] < 1
    assert scores[2] == 1


@pytest.mark.parametrize("ndim", [2, 3])
def test_scores_of_a_network(ndim, config, data_of):
    trainer = Trainer(config(ndim), data_of(ndim), n_classes=N_CLASSES)
    scores = trainer.score(trainer.averaged)
    assert scores.shape == (1, N_CLASSES - 1)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_the_log_has_a_row_for_every_window(config, train):
    state = train(config(training__steps=12, training__validate_every=5)).state
    steps = [row["step"] for row in state.history]
    assert steps == list(range(1, 13))
    assert [r["step"] for r in state.history if "validation_dice" in r] == [5, 10, 12]
    assert all(row["learning_rate"] > 0 for row in state.history)
    assert [("real_loss" in row) for row in state.history] == [s >= WARMUP for s in range(12)]
    assert all("theta/mean/sided" in row for row in state.history)
    assert state.seconds == state.history[-1]["seconds"] > 0


def test_progress_is_told_after_every_step(config, recorded):
    rows = recorded(config()).rows
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert {row["steps"] for row in rows} == {STEPS}
    assert rows[0]["best_dice"] == -1
    assert rows[-1]["best_dice"] == max(r.get("validation_dice", -1) for r in rows)
    assert "mean/sided" in rows[0]["theta"]
