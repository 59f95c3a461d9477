"""Out of memory in the middle of a step: it is taken again with less, from the same place."""

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch

from l2s_pydra.bilevel.processes import Processes
from l2s_pydra.bilevel.relief import Recovery, lighter, ran_out_of_memory
from l2s_pydra.bilevel.state import TrainingState
from l2s_pydra.bilevel.training import Trainer
from l2s_pydra.config import TrainingConfig
from l2s_pydra.errors import TrainingError

CLASSES, STEPS, BROKEN = 4, 6, 4
CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU), MemoryError()]


@pytest.mark.parametrize("error", ERRORS)
def test_errors_that_say_so(error):
    assert ran_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not fit"), ValueError("out of memory"), OSError(12, "")]
)
def test_errors_that_do_not(error):
    assert not ran_out_of_memory(error)


def exhausted(trainer, *, step, call, times=1, error=ERRORS[1], backward=False):
    """Let the segmenter run out of memory at its n-th call in a step, a number of times."""
    calls = {"step": -1, "count": 0, "left": times}

    def hook(module, inputs, output):
        now = trainer.state.step
        calls["count"] = calls["count"] + 1 if calls["step"] == now else 1
        calls["step"] = now
        if now == step and calls["count"] >= call and calls["left"]:
            if not backward:
                fail(None)
            output.register_hook(fail)

    def fail(_):
        if calls["left"]:
            calls["left"] -= 1
            raise error

    trainer.segmenter.register_forward_hook(hook)
    return calls


CASES = {
    "plain": ({"training__mode": "synthseg"}, 1),
    "synthetic": ({}, 1),
    "real": ({}, 2),
    "mixed": ({}, 3),
    "behind": ({"training__estimator": "central_difference"}, 4),
    "exact": ({"training__estimator": "exact"}, 1),
    "exact, real": ({"training__estimator": "exact"}, 2),
    "supervised": ({"training__mode": "supervised"}, 1),
    "sgd": ({"training__optimizer": "sgd"}, 3),
    "tuned": (
        {"training__mode": "finetuned-averaged", "training__finetune_share": 0.33},
        1,
    ),
}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("case", CASES)
def test_the_step_is_taken_again_from_the_same_place(case, backward, config, data_of, same, caplog):
    """With one image there are no smaller batches, and on CPUs activations are the same again."""
    changes, call = CASES[case]
    settings = config(training__batch_size=1, training__steps=STEPS, **changes)
    undisturbed = Trainer(settings, data_of(), n_classes=CLASSES)
    expected = undisturbed.run()
    trainer = Trainer(settings, data_of(), n_classes=CLASSES)
    calls = exhausted(trainer, step=BROKEN, call=call, backward=backward)
    found = trainer.run()
    assert calls["left"] == 0
    exact = settings.training.estimator == "exact" and settings.training.mode == "learn2synth"
    for name in ("phi", "theta", "phi_average", "phi_best", "theta_average", "phi_moments"):
        if exact:
            # The same derivative by another way.
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        else:
            assert same(getattr(found, name), getattr(expected, name)), name
    assert (found.step, found.theta_steps) == (expected.step, expected.theta_steps)
    assert len(found.history) == len(expected.history)
    (change,) = found.memory
    assert change["step"] == BROKEN + 1
    assert change["why"] in caplog.text
    assert trainer.config.training.checkpoint_activations
    assert trainer.segmenter.unet.checkpointing


def test_smaller_batches_change_rounding_only(config, data_of):
    settings = config(training__batch_size=4, training__steps=STEPS)
    expected = Trainer(settings, data_of(), n_classes=CLASSES).run()
    trainer = Trainer(settings, data_of(), n_classes=CLASSES)
    exhausted(trainer, step=BROKEN, call=3)
    found = trainer.run()
    assert trainer.training.micro_batch_size == 2
    for key, value in expected.phi.items():
        torch.testing.assert_close(found.phi[key], value, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("error", ERRORS)
def test_a_second_time_is_an_error_with_a_remedy(error, config, data_of, tmp_path):
    path = tmp_path / "training.safetensors"
    trainer = Trainer(config(), data_of(), n_classes=CLASSES, checkpoint=path)
    exhausted(trainer, step=BROKEN, call=2, times=2, error=error)
    with pytest.raises(TrainingError, match=rf"out of memory at step {BROKEN + 1} .*; use a "):
        trainer.run()
    assert TrainingState.load(path).step == 4


def test_a_later_time_is_an_error_too(config, data_of):
    trainer = Trainer(config(), data_of(), n_classes=CLASSES)
    exhausted(trainer, step=2, call=1)
    exhausted(trainer, step=5, call=1)
    with pytest.raises(TrainingError, match="out of memory at step 6"):
        trainer.run()


def test_other_errors_pass(config, data_of):
    trainer = Trainer(config(), data_of(), n_classes=CLASSES)
    exhausted(trainer, step=3, call=1, error=RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer.run()
    assert trainer.state.memory == []


def test_processes_that_share_batches_do_not_go_back_alone(config, data_of):
    trainer = Trainer(config(), data_of(), n_classes=CLASSES)
    trainer.processes = Processes(size=2)
    with pytest.raises(TrainingError, match=r"out of memory at step 1 \(full\)"):
        trainer._ease("full")


def test_a_resumed_run_goes_on_with_less(config, data_of, tmp_path):
    settings = config(training__checkpoint_every=1)
    path = tmp_path / "training.safetensors"
    first = Trainer(settings, data_of(), n_classes=CLASSES, checkpoint=path)
    exhausted(first, step=2, call=1)

    def stop(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    second = Trainer(settings, data_of(), n_classes=CLASSES, checkpoint=path)
    assert second.state.step == 4
    assert second.training.checkpoint_activations
    assert second.training.micro_batch_size == 1
    assert second.segmenter.unet.checkpointing
    assert second.trials.config is second.training
    assert second.run().memory == first.state.memory


@pytest.mark.parametrize(
    ("batch", "micro", "checkpointed", "then"),
    [(8, None, False, 4), (8, 2, True, 1), (1, None, False, 1), (2, 8, True, 1)],
)
def test_what_is_changed(batch, micro, checkpointed, then):
    config = TrainingConfig(
        batch_size=batch, micro_batch_size=micro, checkpoint_activations=checkpointed
    )
    change = lighter(config, 7, "full")
    assert change["micro_batch_size"] == then
    assert change["checkpoint_activations"]
    assert "out of memory at step 7 (full)" in change["why"]


def test_nothing_is_left_to_change():
    config = TrainingConfig(batch_size=4, micro_batch_size=1, checkpoint_activations=True)
    with pytest.raises(TrainingError, match="out of memory at step 7"):
        lighter(config, 7, "full")


def test_recovery_needs_something_to_go_back_to(config, data_of):
    trainer = Trainer(config(), data_of(), n_classes=CLASSES)
    recovery = Recovery(segmenter=trainer.segmenter, augmentation=trainer.augmentation)
    with pytest.raises(ValueError, match="call remember"):
        recovery.restore(trainer.state)
    recovery.remember(trainer.state)
    before = attrs.evolve(trainer.state)
    trainer.state.skipped = 5
    recovery.restore(trainer.state)
    assert trainer.state.skipped == before.skipped
    recovery.forget()
    with pytest.raises(ValueError, match="call remember"):
        recovery.restore(trainer.state)


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import conftest
from l2s_pydra.bilevel.training import Trainer

settings = conftest.settings_of(
    training__batch_size=512, training__steps=2, training__mode="synthseg",
    training__validate_every=100, segmenter__width=32, segmenter__convolutions=5,
    segmenter__depth=1,
)
trainer = Trainer(settings, conftest.data_of_blocks(settings=settings), n_classes=4)
status = Path("/proc/self/status").read_text().split()
taken = 1024 * int(status[status.index("VmSize:") + 1])
resource.setrlimit(resource.RLIMIT_AS, (taken + 250 * 2**20,) * 2)
state = trainer.run()
print(state.step, len(state.memory), trainer.training.micro_batch_size)
"""


def test_an_address_space_that_ends():
    """A step takes about 290 MiB, and 205 with what is spared: the allocator itself fails."""
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(Path(__file__).parent)],
        # The memory of large tensors goes back to the system when they are gone.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "2 1 256\n"
    assert "can't allocate memory" in run.stderr
