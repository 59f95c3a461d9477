"""Checkpoints: exact, without pickle, and never half written."""

import attrs
import pytest
import torch
from safetensors import safe_open

from l2s_pydra.bilevel import state as module
from l2s_pydra.bilevel import updates
from l2s_pydra.bilevel.state import TrainingState
from l2s_pydra.errors import TrainingError

COUNT = 13
"""More than ten tensors: their order is not that of their names."""


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def moments(rule, generator):
    """State of an update rule after two steps on tensors of different sizes."""
    params = [torch.randn(i + 1, generator=generator) for i in range(COUNT)]
    state = rule.init(params)
    for _ in range(2):
        grads = [torch.randn(p.shape, generator=generator) for p in params]
        params, state = rule.update(grads, state, params, learning_rate=0.1)
    return state


def random(names, generator):
    return {name: torch.randn(2, 3, 2, generator=generator) for name in names}


@pytest.fixture(params=["adam", "adamw", "sgd", "plain"])
def state(request, generator):
    rule = {
        "adam": updates.adam(),
        "adamw": updates.adamw(),
        "sgd": updates.sgd(momentum=0.9),
        "plain": updates.sgd(),
    }[request.param]
    names = ("unet.down.0.0.weight", "unet.final.bias")
    return TrainingState(
        identity="abc",
        step=7,
        phi=random(names, generator),
        phi_average=random(names, generator),
        phi_best=random(names, generator),
        phi_moments=moments(rule, generator),
        theta=random(("mean_raw",), generator),
        theta_average={"noise_raw": torch.tensor(1 / 3)},
        theta_moments=moments(updates.adam(), generator),
        theta_steps=3,
        best_dice=1 / 3,
        best_step=5,
        best_per_class=[0.1, float("nan")],
        seconds=12.75,
        history=[{"step": 1.0, "loss": float("inf")}, {"step": 2.0, "theta/noise": 1e-300}],
    )


def same(one, two):
    """Whether two values are equal to the last bit, not-a-number included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and repr(one) == repr(two)


def test_everything_comes_back(state, tmp_path):
    path = tmp_path / "training.safetensors"
    state.save(path)
    again = TrainingState.load(path)
    for field in attrs.fields(TrainingState):
        assert same(getattr(state, field.name), getattr(again, field.name)), field.name
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_any_layout_and_shared_tensors_are_stored(state, tmp_path):
    state.phi = {"w": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    state.phi_average = state.phi
    state.phi_best = {"w": torch.randn(4, 4).T}
    state.save(tmp_path / "state")
    again = TrainingState.load(tmp_path / "state")
    for name in ("phi", "phi_average", "phi_best"):
        assert torch.equal(getattr(again, name)["w"], getattr(state, name)["w"])


def test_the_file_is_one_of_safetensors(state, tmp_path):
    state.save(tmp_path / "state")
    with safe_open(tmp_path / "state", framework="pt") as file:
        assert "phi/unet.final.bias" in file.keys()  # noqa: SIM118  (no mapping)
        assert set(file.metadata()) == {"state", "checksum"}


def test_an_interrupted_save_leaves_the_old_file(state, tmp_path, monkeypatch):
    path = tmp_path / "state"
    state.save(path)
    before = path.read_bytes()

    def full_disk(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "save_file", full_disk)
    state.step = 8
    with pytest.raises(OSError, match="no space"):
        state.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "others", "missing", "incomplete"])
def test_a_damaged_file_is_named(state, tmp_path, damage):
    path = tmp_path / "state"
    state.save(path)
    content = path.read_bytes()
    if damage == "others":
        module.save_file({"weight": torch.zeros(2)}, path)
    elif damage == "incomplete":
        module.save_file({"weight": torch.zeros(2)}, path, {"state": '{"step": 3}'})
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-9], "empty": b"", "text": b"state"}[damage])
    with pytest.raises(TrainingError, match="cannot be read") as error:
        TrainingState.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
