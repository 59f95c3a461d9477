"""What a training says of itself while it runs."""

import sys

import pytest

from l2s_pydra.config import MODES, LearnConfig
from l2s_pydra.steps.progress import Progress

ROW = {
    "step": 1,
    "synthetic_loss": 0.5,
    "best_dice": -1.0,
    "theta": {"mean/white": 0.9, "bias": 0.25, "sigma": 0.125},
}


@pytest.fixture
def progress(caplog):
    """Make one for a training of ten steps."""
    caplog.set_level("INFO")

    def progress(mode="learn2synth", **options):
        config = LearnConfig().evolve(training__mode=mode, training__steps=10)
        return Progress(config, **{"enabled": True, **options})

    return progress


@pytest.mark.parametrize("mode", MODES)
def test_theta_is_told_where_it_is_learned(progress, caplog, mode):
    show = progress(mode)
    show.training(ROW)
    show.training({**ROW, "step": 2, "validation_dice": 0.75, "best_dice": 0.75})
    first, line = caplog.messages
    assert "left" not in first, "one step tells nothing of the time"
    assert "Dice" not in first
    assert line.startswith("step 2 of 10, loss 0.500, best validation Dice 0.750, ")
    assert line.endswith(" min left")
    assert (", theta bias 0.250 sigma 0.125, " in line) == mode.startswith("learn2synth")
    assert ("theta" in line) == mode.startswith("learn2synth")


def test_nothing_is_told_of_a_theta_of_groups_only(progress, caplog):
    progress().training({**ROW, "validation_dice": 0.75, "theta": {"mean/white": 0.9}})
    (line,) = caplog.messages
    assert "theta" not in line


def test_steps_without_validation_are_told_now_and_then(progress, caplog):
    show = progress(title="synthseg, seed 1")
    for step in range(1, 5):
        show.training({**ROW, "step": step})
    assert [line.split(", loss")[0] for line in caplog.messages] == [
        "synthseg, seed 1: step 1 of 10"
    ]


def test_reading_is_told(progress, caplog):
    show = progress()
    for done in range(1, 11):
        show.reading("images read", done, 10)
    assert caplog.messages == ["images read: 5 of 10", "images read: 10 of 10"]


def test_silence_where_it_is_asked_for(progress, caplog, capsys):
    show = progress(enabled=False)
    show.reading("images read", 5, 10)
    show.training({**ROW, "validation_dice": 0.75})
    show.close()
    assert not caplog.messages
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("mode", "said"), [("learn2synth", True), ("mixed", False)])
def test_a_bar_on_a_terminal(progress, caplog, capsys, monkeypatch, mode, said):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = progress(mode)
    for step in range(1, 11):
        show.training({**ROW, "step": step})
    show.close()
    drawn = capsys.readouterr().err
    assert "10/10" in drawn
    assert "loss 0.500" in drawn
    assert "Dice" not in drawn
    assert ("theta bias 0.250" in drawn) == said
    assert not caplog.messages
