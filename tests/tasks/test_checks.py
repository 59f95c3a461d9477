"""What tasks refuse before anything runs."""

import pytest
from pydra.compose import workflow

from l2s_pydra.errors import ConfigError
from l2s_pydra.steps.train import FIXED_MODES
from l2s_pydra.tasks import (
    Learn,
    LearnSynthesis,
    Preview,
    Resources,
    Segment,
    SynthesizeImages,
    TrainSegmenter,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segment(test_time_draws=0), "test_time_draws must be at least 1, not 0"),
        (lambda: Preview(count=0), "count must be at least 1, not 0"),
        (
            lambda: Learn(roles=["learn", "judge"]),
            "roles: 'judge' is unknown; available: 'learn', 'validate', 'test'",
        ),
        (lambda: LearnSynthesis(roles=["judge"]), "roles: 'judge' is unknown"),
        (
            lambda: TrainSegmenter(mode="learn2synth"),
            f"mode: 'learn2synth' is unknown; available: {', '.join(map(repr, FIXED_MODES))}",
        ),
        (lambda: SynthesizeImages(count=0), "count must be at least 1, not 0"),
        (lambda: SynthesizeImages(seed=-1), "seed must be at least 0, not -1"),
        (lambda: SynthesizeImages(learned_share=1.1), "learned_share must be between 0 and 1"),
        (lambda: Resources(device="gpu"), "device: 'gpu' is unknown; available: 'auto', 'cpu'"),
        (lambda: Resources(device="cuda:"), "device: 'cuda:' is unknown"),
        (lambda: Resources(threads=0), "threads must be at least 1, not 0"),
        (lambda: Resources(max_memory_mb=0), "max_memory_mb must be at least 1, not 0"),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3"])
def test_devices(device):
    assert Resources(device=device).device == device


def test_values_that_are_not_known_yet_pass():
    """Lazy ones of a workflow are checked when they are known; those of a split, each."""

    @workflow.define(outputs=["dseg"])
    def Lazy(draws: int) -> str:
        return workflow.add(Segment(test_time_draws=draws)).dseg

    assert Lazy(draws=0).draws == 0
    assert Segment().split(test_time_draws=[1, 2])
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        Segment().split(test_time_draws=[1, 0])
