"""The benchmark of the memory plan measures steps of the kind it names."""

import pytest


@pytest.fixture
def benchmark(load):
    return load("memory_plan")


@pytest.mark.parametrize("case", ["plain", "exact"])
def test_steps_are_of_their_kind(benchmark, case, monkeypatch):
    shape = benchmark.Shape((32, 32), 2, 4, 2)
    config = shape.config(**benchmark.CASES[case])
    kept = []
    made = benchmark.Trainer.__init__

    def keeping(self, *args, **options):
        made(self, *args, **options)
        kept.append(self)

    monkeypatch.setattr(benchmark.Trainer, "__init__", keeping)
    assert benchmark.train(shape, config, "cpu") > 0
    (trainer,) = kept
    assert trainer.state.theta_steps == (0 if case == "plain" else benchmark.STEPS - 1)
    assert benchmark.predicted(shape, config, "cpu").total > 0
