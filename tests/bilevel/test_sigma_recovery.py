"""Learn2Synth's first claim, in miniature: it finds the noise level of the real images.

One of the runs of ``benchmarks/sigma_recovery.py``, where the problem is described.
"""

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TRUE_SIGMA, SEED = 0.10, 0


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("sigma_recovery")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_recovers_the_noise_of_the_real_images(benchmark):
    assert (TRUE_SIGMA in benchmark.SIGMAS, SEED in benchmark.SEEDS) == (True, True)
    recipe = benchmark.Recipe()
    sigmas = benchmark.learn_sigma(TRUE_SIGMA, SEED, recipe)
    # Every hypergradient reaches theta, none is lost to a graph that was not recorded.
    assert (torch.tensor([recipe.start, *sigmas]).diff() != 0).all()
    assert len(sigmas) == (recipe.steps - recipe.warmup) // recipe.every
    # Single iterates wander; their average is what is reported.
    found = benchmark.mean_of_last(sigmas, recipe)
    assert found == pytest.approx(TRUE_SIGMA, abs=benchmark.TOLERANCE)
