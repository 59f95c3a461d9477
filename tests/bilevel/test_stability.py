"""Estimators by trial; steps that are skipped, clipped, cut into pieces or compiled."""

import numpy as np
import pytest
import torch

from l2s_pydra.bilevel.hypergradient import Exact, OneSidedDifference
from l2s_pydra.bilevel.self_check import EPSILONS, estimator_from
from l2s_pydra.bilevel.state import TrainingState
from l2s_pydra.bilevel.training import Trainer
from l2s_pydra.errors import TrainingError

N_CLASSES = 4
STEPS, WARMUP = 9, 2


def test_estimators_agree(config, train):
    norms = []
    for estimator in ("exact", "one_sided_difference"):
        settings = config(training__estimator=estimator, training__steps=WARMUP + 1)
        norms.append(train(settings).state.history[-1]["theta_gradient_norm"])
    # The difference quotient is right to a few per cent (Hypergradient's own tests).
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_a_run_that_explodes_says_so(tmp_path, config, train):
    settings = config(
        training__learning_rate=1e30, training__schedule="constant", training__stop_after_skipped=3
    )
    with pytest.raises(TrainingError, match=r"not finite 3 times in a row.*no checkpoint"):
        train(settings)
    # A short run cannot end well either, if most of its steps were skipped.
    settings = settings.evolve(training__stop_after_skipped=100)
    path = tmp_path / "training.safetensors"
    with pytest.raises(TrainingError, match=f"{path} holds the last checkpoint"):
        train(settings, checkpoint=path)
    assert TrainingState.load(path).skipped > 0


def test_a_step_that_is_not_finite_is_skipped(monkeypatch, caplog, config, data_of, same, record):
    """One bad batch changes neither phi nor theta; the run goes on."""
    trainer = Trainer(config(), data_of(), n_classes=N_CLASSES)
    recorder = record(trainer)
    loss = trainer.loss
    spoilt = {4}

    def sometimes(logits, target):
        return loss(logits, target) * (float("nan") if trainer.state.step in spoilt else 1)

    monkeypatch.setattr(trainer, "loss", sometimes)
    state = trainer.run(recorder)
    assert recorder.moved() == [i for i in range(WARMUP, STEPS) if i != 4]
    assert same(recorder.phi[4], recorder.phi[5])
    assert not same(recorder.phi[5], recorder.phi[6])
    assert state.step == STEPS
    assert (state.skipped, state.skipped_in_a_row, state.theta_skipped) == (1, 0, 0)
    assert recorder.rows[-1]["skipped_steps"] == 1
    assert "step 5 skipped" in caplog.text
    assert all(np.isfinite(list(row.values())).all() for row in state.history)


def test_a_hypergradient_that_is_not_finite_leaves_theta(
    monkeypatch, config, data_of, same, record
):
    trainer = Trainer(config(), data_of(), n_classes=N_CLASSES)
    recorder = record(trainer)
    real = trainer.batches.real

    def spoilt(step, count, **options):
        images, targets = real(step, count, **options)
        return images * (float("nan") if step == 4 else 1), targets

    monkeypatch.setattr(type(trainer.batches), "real", lambda self, *a, **k: spoilt(*a, **k))
    state = trainer.run(recorder)
    assert recorder.moved() == [i for i in range(WARMUP, STEPS) if i != 4]
    assert not same(recorder.phi[4], recorder.phi[5])
    assert (state.skipped, state.theta_skipped) == (0, 1)


@pytest.mark.parametrize("estimator", ["exact", "central_difference", "one_sided_difference"])
def test_micro_batches_and_checkpoints_change_nothing(estimator, config, train):
    base = config(
        training__estimator=estimator,
        training__batch_size=4,
        training__real_batch_size=2,
        training__steps=WARMUP + 3,
    )
    whole = train(base).state
    for change in ({"training__micro_batch_size": 1}, {"training__checkpoint_activations": True}):
        state = train(base.evolve(**change)).state
        for key, value in whole.phi.items():
            torch.testing.assert_close(state.phi[key], value, rtol=1e-3, atol=2e-5)
        for key, value in whole.theta.items():
            torch.testing.assert_close(state.theta[key], value, rtol=1e-3, atol=1e-3)


def test_trust_limits_the_step_of_theta(config, recorded):
    free, bound = recorded(config()), recorded(config(training__theta_trust=0.01))

    def longest(recorder):
        pairs = zip(recorder.theta, recorder.theta[1:], strict=False)
        return max(float((b[k] - a[k]).abs().max()) for a, b in pairs for k in a)

    assert longest(free) > 0.02
    assert longest(bound) == pytest.approx(0.01, rel=1e-3)


def test_clipped_gradient_of_theta_changes_its_moments(config, train):
    free = train(config(training__steps=WARMUP + 1)).state
    norm = free.history[-1]["theta_gradient_norm"]
    bound = train(config(training__steps=WARMUP + 1, training__theta_gradient_clip=norm / 2)).state
    for one, two in zip(free.theta_moments["m"], bound.theta_moments["m"], strict=True):
        torch.testing.assert_close(one / 2, two)


def test_clipped_gradient_of_phi(config, train):
    free = train(config(training__steps=1, training__gradient_clip=None)).state
    norm = free.history[-1]["gradient_norm"]
    bound = train(config(training__steps=1, training__gradient_clip=norm / 2)).state
    for one, two in zip(free.phi_moments["m"], bound.phi_moments["m"], strict=True):
        torch.testing.assert_close(one / 2, two)


AUTO = {"training__estimator": "auto", "training__epsilon": None}


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        ({}, OneSidedDifference),
        ({"segmenter__activation": "relu", "segmenter__norm": "instance"}, Exact),
    ],
)
def test_auto_takes_what_is_right_for_the_network(network, kind, caplog, config, data_of):
    settings = config(
        **AUTO, **network, segmenter__width=8, segmenter__convolutions=2, training__steps=20
    )
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    with caplog.at_level("INFO"):
        checks = trainer.run().checks
    # When theta first moves, and at each quarter of what is left.
    assert [check["step"] for check in checks] == [2, 7, 11, 16]
    for check in checks:
        assert isinstance(estimator_from(check), kind)
        assert check["error"] <= settings.training.estimator_tolerance
        assert kind.__name__ in caplog.text
    if kind is Exact:
        assert "one_sided_difference had an error of" in checks[0]["reason"]


def test_auto_asks_for_full_precision_where_bf16_is_too_coarse(config, train):
    settings = config(
        **AUTO, segmenter__activation="gelu", segmenter__norm="group", segmenter__width=8,
        training__precision="bf16", training__steps=WARMUP + 2, training__estimator_tolerance=0.01,
    )  # fmt: skip
    checks = train(settings).state.checks
    assert checks[0]["error"] <= settings.training.estimator_tolerance
    assert len(checks[0]["tried"]) > len(EPSILONS)
    assert checks[0]["full_precision"]


def test_a_difference_without_epsilon_gets_the_best_one(config, train):
    settings = config(training__estimator="central_difference", training__epsilon=None)
    checks = train(settings).state.checks
    assert {check["estimator"] for check in checks} == {"central_difference"}
    assert {row["estimator"] for row in checks[0]["tried"]} == {"central_difference"}
    assert checks[0]["error"] == min(row["error"] for row in checks[0]["tried"])


def test_fixed_estimators_are_not_checked(config, train):
    assert train(config()).state.checks == []
    assert train(config(training__estimator="exact", training__epsilon=None)).state.checks == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Reliance on distutils from stdlib is deprecated:UserWarning")
def test_compiled_training_learns_the_same(config, train, monkeypatch):
    # PyTorch's compiler imports setuptools, which refuses to be where distutils was imported before.
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    settings = config(training__steps=WARMUP + 3)
    one, two = train(settings), train(settings.evolve(training__compile=True))
    for key, value in one.state.phi.items():
        torch.testing.assert_close(two.state.phi[key], value, rtol=1e-3, atol=2e-5)
    for key, value in one.state.theta.items():
        torch.testing.assert_close(two.state.theta[key], value, rtol=1e-3, atol=1e-3)
