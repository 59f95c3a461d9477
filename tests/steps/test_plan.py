"""A run is fitted to the memory there is, in the order of what that costs, and says so."""

import json
import logging

import pytest
import torch

from l2s_pydra.bilevel.checkpoints import Checkpoints
from l2s_pydra.bilevel.training import TrainingData
from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import ConfigError
from l2s_pydra.steps import plan as module
from l2s_pydra.steps.learn import learn
from l2s_pydra.steps.plan import plan_memory
from l2s_pydra.steps.progress import Progress
from l2s_pydra.synthesis import GenerationLabels, Synthesizer

CLASSES = 3


def data_of(config, sides=(64, 64, 64)):
    identity = torch.arange(CLASSES)
    labels = GenerationLabels(
        group=identity.to(torch.uint8),
        channel=identity,
        group_names=("outside", "grey", "white"),
        swap=identity.to(torch.uint8),
        n_channels=CLASSES,
    )
    fine = [n * config.synthesis.oversampling for n in sides]
    head = torch.zeros(fine, dtype=torch.uint8)
    head[tuple(slice(n // 4, -(n // 4)) for n in fine)] = 1
    head[tuple(slice(n // 3, -(n // 3)) for n in fine)] = 2
    synthesizer = Synthesizer(
        label_maps=[head], labels=labels, config=config.synthesis, spacing_mm=1.0
    )
    return TrainingData(
        synthesizer=synthesizer, own=[0], learn=[], validate=[], statistics={}, opposite=(0, 1, 2)
    )


def settings(**changes):
    return LearnConfig().evolve(
        **{
            "segmenter__width": 8,
            "segmenter__depth": 3,
            "synthesis__oversampling": 1,
            "training__batch_size": 4,
            **changes,
        }
    )


@pytest.fixture
def plan(monkeypatch):
    """``plan(config, free_gb)``, of cubes of 64 voxels."""

    def plan(config, free_gb, **options):
        free = None if free_gb is None else int(free_gb * 1e9)
        monkeypatch.setattr(module, "free_bytes", lambda _: free)
        return plan_memory(config, data_of(config), CLASSES, device=torch.device("cpu"), **options)

    return plan


def steps_of(found):
    t = found.config.training
    return t.checkpoint_activations, t.micro_batch_size, found.config.synthesis.crop


def test_nothing_is_changed_where_there_is_enough(plan, caplog):
    config = settings()
    with caplog.at_level(logging.INFO):
        found = plan(config, 100)
    assert found.config == config
    assert found.changes == []
    assert found.record["asked_for_gb"] == found.record["predicted_gb"]
    assert found.record["free_gb"] == 100
    kinds = ("plain", "exact", "one_sided_difference", "central_difference")
    assert all(found.record[f"{kind}_gb"] > 0 for kind in kinds)
    assert found.record["exact_gb"] > found.record["plain_gb"]
    assert "a training step takes about" in caplog.text
    assert "100.0 GB are free (cpu)" in caplog.text


def test_the_order_is_that_of_the_cost(plan, caplog):
    seen, sizes = [], []
    for tenths in range(60, 5, -1):
        try:
            found = plan(settings(), tenths / 100)
        except ConfigError:
            break
        sizes.append(found.record["predicted_gb"])
        if steps_of(found) not in seen:
            seen.append(steps_of(found))
    assert seen[:4] == [
        (False, None, None), (True, None, None), (True, 2, None), (True, 1, None)
    ]  # fmt: skip
    crops = [crop for _, _, crop in seen[4:]]
    assert crops
    assert all(set(crop) <= {32, 36, 40, 44, 48, 52, 56} for crop in crops)
    assert crops == sorted(crops, reverse=True)
    assert sizes == sorted(sizes, reverse=True)
    assert "changes the result by rounding only" in caplog.text
    assert "Crops change the result" in caplog.text
    assert f"random crops of {' x '.join(map(str, crops[0]))} of the 64 x 64 x 64" in caplog.text


def test_what_fits_is_within_what_is_free(plan):
    found = plan(settings(), 0.3)
    assert found.changes
    assert found.record["predicted_gb"] <= 0.9 * 0.3
    assert found.record["asked_for_gb"] > 0.9 * 0.3
    (change,) = found.changes
    assert change["step"] == 0
    assert "300 MB are free (cpu)" in change["why"]


def test_a_training_takes_no_more_than_its_part(plan):
    part = 300_000_000
    assert plan(settings(), 100, memory_bytes=part).changes == plan(settings(), 0.3).changes != []
    # Others have taken theirs already: what is left is not divided again.
    assert plan(settings(), 0.4, memory_bytes=part).changes == plan(settings(), 0.3).changes


def test_the_generator_crops(plan):
    config = settings(training__batch_size=1)
    found = plan(config, plan(config, 100).record["asked_for_gb"] / 3)
    crop = found.config.synthesis.crop
    assert crop is not None
    assert found.data.synthesizer.image_shape == crop
    assert found.data.synthesizer.working_shape == (64, 64, 64)


def test_what_is_set_by_hand_stays(plan):
    config = settings(training__micro_batch_size=4, synthesis__crop=(56, 56, 56))
    asked = plan(config, 100).record["asked_for_gb"]
    found = plan(config, asked)
    assert steps_of(found) == (True, 4, (56, 56, 56))
    with pytest.raises(ConfigError):
        plan(config, asked / 3)


def test_too_little_is_an_error_that_says_how_much(plan):
    with pytest.raises(ConfigError) as error:
        plan(settings(), 0.01)
    message = str(error.value)
    assert "images of 32 x 32 x 32 voxels" in message
    assert "10 MB are free (cpu)" in message
    assert "set training.fit_memory to false" in message
    assert "\n" not in message


@pytest.mark.parametrize(("free", "fit"), [(0.01, False), (None, True)])
def test_it_can_be_turned_off_and_needs_a_number(plan, free, fit):
    config = settings(training__fit_memory=fit)
    found = plan(config, free)
    assert (found.config, found.changes, found.record) == (config, [], {})


@pytest.mark.parametrize("name", ["contrast", "noise", "unet"])
def test_what_the_augmentation_keeps_is_tried(plan, name):
    state = torch.get_rng_state()
    learned = plan(settings(augmentation__name=name), 100).record["central_difference_gb"]
    fixed = plan(settings(augmentation__name=name), 100).record["plain_gb"]
    assert learned > fixed
    assert torch.equal(torch.get_rng_state(), state)
    baseline = plan(settings(training__mode="synthseg"), 100).record
    assert set(baseline) == {"free_gb", "asked_for_gb", "plain_gb", "predicted_gb"}


def test_a_resumed_run_keeps_its_crops(plan, tmp_path, inputs, config, monkeypatch):
    """What a first session chose is what the second computes, wherever it runs."""
    state = tmp_path / "state"
    chosen = config(training__steps=4, segmenter__width=8)
    free = {"bytes": 3_600_000}
    monkeypatch.setattr(module, "free_bytes", lambda _: free["bytes"])
    monkeypatch.setattr(module, "_LEAST_SIDE", 16)
    whole = learn(**inputs(config=chosen, out_dir=tmp_path / "whole"))

    def stop(self, row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    given = inputs(config=chosen, checkpoint_dir=state)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "training", stop)
        with pytest.raises(KeyboardInterrupt):
            learn(**given)
    (change,) = Checkpoints(state / "training.safetensors").load().memory
    assert change["crop"] is not None
    free["bytes"] = 10**12
    again = learn(**given)
    assert again.name == whole.name
    record = json.loads((again / "config.json").read_text())
    assert record["memory"]["changes"] == [change]
    assert record["learn"]["synthesis"]["crop"] == change["crop"]
    assert record["learn"]["training"]["checkpoint_activations"]
    assert f"- Memory: {change['why']}" in (again / "MODELCARD.md").read_text()
