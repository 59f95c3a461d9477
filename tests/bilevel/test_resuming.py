"""An interruption changes nothing, and a seed decides everything."""

import attrs
import pytest
import torch

from l2s_pydra.bilevel.training import Trainer
from l2s_pydra.errors import TrainingError

N_CLASSES = 4


def without_time(state):
    values = attrs.asdict(state, recurse=False)
    rows = [
        {k: v for k, v in row.items() if not k.endswith("seconds")} for row in values["history"]
    ]
    return {**values, "history": rows, "seconds": 0}


class StopError(Exception):
    """Stands for whatever ends a process."""


def interrupt(step):
    def progress(row):
        if row["step"] == step:
            raise StopError

    return progress


CASES = {
    "learn2synth": {},
    "wide": {"training__wide_share": 0.5, "training__optimizer": "adamw"},
    "exact": {"training__estimator": "exact", "training__optimizer": "sgd"},
    "supervised": {"training__mode": "supervised"},
    "mixed": {"training__mode": "learn2synth-mixed", "training__outer_remap_share": 0.5},
    "finetuned": {"training__mode": "finetuned-averaged", "training__finetune_share": 0.5},
    "synthseg": {"training__mode": "synthseg", "training__precision": "bf16"},
    "noise": {"augmentation__name": "noise", "training__synthetic_fraction": 0.5},
    "unet": {"augmentation__name": "unet", "augmentation__options": {"width": 4}},
    "odd": {"training__checkpoint_every": 3, "training__validate_every": 5},
    "3d": {"ndim": 3},
    "auto": {"training__estimator": "auto", "training__epsilon": None},
    "central": {"training__estimator": "central_difference", "training__micro_batch_size": 1},
    "checkpointed": {"training__checkpoint_activations": True, "training__gradient_clip": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_an_interruption_changes_nothing(case, tmp_path, config, data_of, train, same):
    settings = config(**CASES[case])
    path = tmp_path / "training.safetensors"
    whole = train(settings)
    first = Trainer(
        settings, data_of(settings.segmenter.ndim), n_classes=N_CLASSES, checkpoint=path
    )
    with pytest.raises(StopError):
        first.run(interrupt(6))
    # Whatever else draws random numbers in between.
    torch.manual_seed(17)
    second = Trainer(
        settings, data_of(settings.segmenter.ndim), n_classes=N_CLASSES, checkpoint=path
    )
    assert second.state.step == settings.training.checkpoint_every * (
        5 // settings.training.checkpoint_every
    )
    second.run()
    one, two = without_time(whole.state), without_time(second.state)
    for name in one:
        assert same(one[name], two[name]), name
    assert whole.theta_start == second.theta_start


def test_a_finished_run_is_not_run_again(tmp_path, config, data_of, train, same):
    path = tmp_path / "training.safetensors"
    trainer = train(checkpoint=path)
    again = Trainer(config(), data_of(), n_classes=N_CLASSES, checkpoint=path)

    def never(row):
        raise AssertionError(row)

    again.run(never)
    for name, value in attrs.asdict(trainer.state, recurse=False).items():
        assert same(value, getattr(again.state, name)), name


@pytest.mark.parametrize("name", ["contrast", "unet"])
def test_the_seed_decides_everything(name, config, train, same):
    settings = config(augmentation__name=name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train(settings)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = train(settings)
    assert same(without_time(one.state), without_time(two.state))
    other = train(settings.evolve(training__seed=1))
    assert not same(one.state.phi, other.state.phi)


@pytest.mark.parametrize(
    "change",
    [
        lambda s, d, _: (s.evolve(training__seed=1), d),
        lambda s, d, data_of: (s, data_of(real_seed=5)),
        lambda s, d, data_of: (s, data_of(map_shift=1)),
        lambda s, d, _: (s, attrs.evolve(d, learn=d.learn[:1])),
        lambda s, d, _: (s, attrs.evolve(d, synthesizer=attrs.evolve(d.synthesizer,
            labels=attrs.evolve(d.synthesizer.labels, channel=torch.tensor([0, 2, 1, 3, 0]))))),
    ],
    ids=["settings", "scans", "maps", "participants", "tables"],
)  # fmt: skip
def test_another_run_is_not_resumed(change, tmp_path, config, data_of, train):
    path = tmp_path / "training.safetensors"
    train(config(training__steps=1), checkpoint=path)
    settings, data = change(config(training__steps=1), data_of(), data_of)
    with pytest.raises(TrainingError, match="other settings or data") as error:
        Trainer(settings, data, n_classes=N_CLASSES, checkpoint=path)
    assert str(error.value).startswith(f"{path}: ")


def test_checkpoints_leave_no_trace_in_the_log(tmp_path, monkeypatch, config, data_of, same):
    path = tmp_path / "training.safetensors"
    settings = config(
        training__steps=1200, training__validate_every=600, training__checkpoint_every=400
    )

    def history(*stops, checkpoint=None):
        for stop in (*stops, None):
            trainer = Trainer(settings, data_of(), n_classes=N_CLASSES, checkpoint=checkpoint)
            monkeypatch.setattr(trainer, "_step", lambda step: {"synthetic_loss": step**0.5})
            if stop is None:
                return without_time(trainer.run())["history"]
            with pytest.raises(StopError):
                trainer.run(interrupt(stop))
        return None

    whole = history()
    assert [row["step"] for row in whole] == list(range(3, 1201, 3))
    assert same(history(500, 1100, checkpoint=path), whole)
