"""Learn2Synth's first claim, in miniature: it finds the noise level of the real images.

One of the runs of ``benchmarks/paper_sigma.py``, where the problem is described.
"""

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIGMA, SEED = 0.10, 0


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_recovers_the_noise_of_the_real_images(load):
    recovery, benchmark = load("_recovery"), load("paper_sigma")
    (case,) = (case for case in benchmark.CASES if case.presets == {"sigma": SIGMA})
    anatomy, recipe = recovery.Anatomy.read(load("_generators").ICBM), recovery.Recipe()
    learned = recovery.learn(anatomy, case.preset(), case.learned(), recipe, seed=SEED)
    # Every hypergradient reaches theta, none is lost to a graph that was not recorded.
    sigmas = torch.tensor([benchmark.START, *(row["sigma"] for row in learned.values)])
    assert (sigmas.diff() != 0).all()
    assert len(learned.values) == recipe.iterates == (recipe.steps - recipe.warmup) // recipe.every
    # Single iterates wander; their average is what is reported.
    found = learned.mean_of_last(recipe.averaged)["sigma"]
    assert found == pytest.approx(SIGMA, abs=benchmark.TOLERANCE)
