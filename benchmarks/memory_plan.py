"""Predicted and measured peak memory of training steps.

Trains a few steps of the real loop on a synthetic head, in a process of its own for each case, and
compares the peak (of the resident memory on a CPU, of what PyTorch has allocated on a GPU, over what
is held before the trainer is made) with what the memory plan predicts. The first of a shape is the
step as it is; then with each estimator, activation checkpoints, micro-batches and crops.

    python benchmarks/memory_plan.py [--quick] [--device cuda] [--json FILE]
"""

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import _table
import attrs
import torch

from l2s_pydra.bilevel.memory import StepMemory
from l2s_pydra.bilevel.processes import Processes
from l2s_pydra.bilevel.training import RealScan, Trainer, TrainingData
from l2s_pydra.config import LearnConfig
from l2s_pydra.steps.plan import _Predictor
from l2s_pydra.synthesis import GenerationLabels, Synthesizer, intensity

CLASSES = 24
STEPS = 3
CASES: dict[str, dict[str, Any]] = {
    "plain": {"training__mode": "synthseg"},
    "one_sided_difference": {},
    "central_difference": {"training__estimator": "central_difference"},
    "exact": {"training__estimator": "exact"},
    "checkpoint_activations": {"training__checkpoint_activations": True},
    "micro_batch_size 1": {"training__micro_batch_size": 1},
    "both": {"training__checkpoint_activations": True, "training__micro_batch_size": 1},
    "full precision": {"training__precision": "fp32"},
}


@attrs.frozen
class Shape:
    """Images and network of a case."""

    sides: tuple[int, ...]
    batch: int
    width: int
    oversampling: int

    def __str__(self) -> str:
        sides = "x".join(map(str, self.sides))
        return f"{sides}, batch {self.batch}, width {self.width}, labels {self.oversampling} x"

    def config(self, **changes: Any) -> LearnConfig:
        """Return the settings of a case."""
        return LearnConfig().evolve(
            **{
                "segmenter__ndim": len(self.sides),
                "segmenter__width": self.width,
                "synthesis__oversampling": self.oversampling,
                "training__batch_size": self.batch,
                "training__real_batch_size": self.batch,
                "training__steps": STEPS,
                "training__theta_warmup_steps": 0,
                "training__wide_share": 0.0,
                "training__learned_remap_share": 0.0,
                # Validation is no part of a step.
                "training__validate_every": 1000,
                "training__estimator": "one_sided_difference",
                "training__epsilon": 0.01,
                **changes,
            }
        )


def shapes(quick: bool) -> Iterator[Shape]:
    """Give what is measured."""
    yield Shape((96, 96), 8, 16, 1)
    yield Shape((48, 48, 48), 1, 16, 1)
    yield Shape((32, 32, 32), 2, 8, 2)
    if not quick:
        yield Shape((192, 224), 16, 24, 2)
        yield Shape((96, 96, 96), 1, 16, 1)
        yield Shape((96, 112, 96), 1, 24, 2)


def data_of(shape: Shape, config: LearnConfig) -> TrainingData:
    """Nested ellipsoids with labels 1 to 23, of which one is a real image."""
    factor = shape.oversampling
    axes = [torch.linspace(-1, 1, factor * n) for n in shape.sides]
    radius = sum(a**2 for a in torch.meshgrid(*axes, indexing="ij")).sqrt()  # type: ignore[union-attr]
    head = ((1 - radius).clamp_min(0) * CLASSES).clamp_max(CLASSES - 1).to(torch.uint8)
    identity = torch.arange(CLASSES)
    names = ("outside", *(f"structure {i}" for i in range(1, CLASSES)))
    synthesizer = Synthesizer(
        label_maps=[head],
        labels=GenerationLabels(
            group=identity.to(torch.uint8),
            channel=identity,
            group_names=names,
            swap=identity.to(torch.uint8),
            n_channels=CLASSES,
        ),
        config=config.synthesis,
        spacing_mm=config.spacing_mm,
    )
    fine = head.float()
    scan = RealScan(
        name="head",
        image=intensity.pool(fine[None, None], factor)[0, 0],
        target=head if factor == 1 else intensity.soft_labels(head, CLASSES, factor),
        fine_image=fine,
        fine_channels=head,
    )
    return TrainingData(
        synthesizer=synthesizer,
        own=[0],
        learn=[scan],
        validate=[],
        statistics={name: (i / CLASSES, 0.05) for i, name in enumerate(names)},
        opposite=tuple(range(CLASSES)),
    )


class StoppedError(Exception):
    """The last step that is measured is done."""


def measure(shape: Shape, changes: dict[str, Any], device: str) -> tuple[int, int]:
    """Return the predicted and the measured peak, bytes."""
    # What libraries load and keep when they are first used is no part of a step.
    small = attrs.evolve(shape, sides=(32,) * len(shape.sides), batch=1)
    train(small, small.config(**changes), device)
    config = shape.config(**changes)
    found = predicted(shape, config, device)
    return found.total, train(shape, config, device)


def predicted(shape: Shape, config: LearnConfig, device: str) -> StepMemory:
    """Return what the memory plan says."""
    data = data_of(shape, config)
    return _Predictor.of(config, data, CLASSES, torch.device(device), Processes())(config)


def train(shape: Shape, config: LearnConfig, device: str) -> int:
    """Peak of a few steps over what the data take, bytes."""

    def stop(row: Any) -> None:
        if row["step"] == STEPS - 1:
            raise StoppedError

    data = data_of(shape, config)
    before = _start(device)
    trainer = Trainer(config, data, n_classes=CLASSES, device=device)
    try:
        trainer.run(stop)
    except StoppedError:
        return _peak(device) - before
    raise RuntimeError("the training ended before it was stopped")


def _start(device: str) -> int:
    """Forget earlier peaks; bytes that are held now."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    # Linux: the peak that is accounted so far includes the imports.
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def in_own_process(shape: Shape, changes: dict[str, Any], device: str) -> tuple[int, int]:
    """Return :func:`measure` of a fresh process, whose allocator gives freed memory back at once."""
    context = multiprocessing.get_context("spawn")
    queue: Queue[tuple[int, int]] = context.Queue()
    process = context.Process(target=_put, args=(queue, shape, changes, device))
    # glibc: what is resident is what is in use, and not what the allocator keeps.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"measuring {shape} {changes} failed; the error is above")
    return queue.get()


def _put(
    queue: "Queue[tuple[int, int]]", shape: Shape, changes: dict[str, Any], device: str
) -> None:
    queue.put(measure(shape, changes, device))


def main() -> None:
    """Run, print, write."""
    options = _table.parser(__doc__ or "").parse_args()
    rows: list[_table.Row] = []
    for shape in shapes(options.quick):
        for name, changes in CASES.items():
            if "precision" in name and len(shape.sides) == 3 and shape.sides[0] > 48:
                continue
            said, found = in_own_process(shape, changes, options.device)
            case = f"{shape}: {name}"
            rows.append(_table.row(case, "measured", found / 2**20, "MiB", "measured", 0))
            rows.append(
                _table.row(case, "predicted", said / 2**20, "MiB", "measured", found / 2**20)
            )
            _table.report(rows[-2:], None)
    print(_table.machine(options.device))
    _table.report(rows, options.json)


if __name__ == "__main__":
    main()
