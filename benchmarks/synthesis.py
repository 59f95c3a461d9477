"""Cost of one synthetic image, over that of the generators of other projects.

One image of 160 x 192 x 160 voxels of 1 mm with its deformed labels, from label maps of heads, all
parts of the default settings on. Every image is drawn anew, because draws differ in cost.

    l2s_pydra                  draw and render, fine grid = working grid
    l2s_pydra, every artefact  ghosts, movements, lesions, slices and Rician noise in every image
    l2s_pydra, oversampling 2  fine grid of twice as many voxels an axis, as is the default
    cornucopia                 SynthFromLabelTransform(order=1), as in the scripts of Hu et al.
    torchio                    RandomAffine, RandomElasticDeformation, RandomLabelsToImage,
                               RandomBiasField, RandomAnisotropy, RandomNoise, RandomGamma

Generators take turns; times are medians over the rounds of the mean over the images of a round.
Memory is that of a process for each case: the peak while an image is made, over what was held
before. `held` is what stays after the first image (the noise that is drawn once, the label map).
Traffic counts the bytes of all tensors that operations on a whole image, or on pieces of it, read
and write; the least is one operation that reads the labels and writes the results.

    pip install cornucopia torchio  # optional
    OMP_NUM_THREADS=1 python benchmarks/synthesis.py [--quick] [--device cuda] [--json FILE]
        [--label-map FILE ...]
"""

import gc
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import _generators as generators
import _table
import attrs
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ARTEFACTS = f"{generators.OURS}, every artefact"
OVERSAMPLED = f"{generators.OURS}, oversampling 2"
_LARGE = 2**16
"""Bytes below which an operation only works out what to do."""
_MMAP = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


@attrs.frozen(kw_only=True)
class Setting:
    """What is measured."""

    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    device: str
    threads: int

    def problem(self, factor: int = 1) -> generators.Problem:
        """Label maps, ``factor`` times coarser."""
        shape = [max(8, n // factor) for n in self.shape]
        return generators.Problem.read(self.paths, shape, float(factor))

    def make(self, case: str, problem: generators.Problem) -> generators.Make:
        """Generator of a case."""
        torch.set_num_threads(self.threads)
        if case == "torchio":
            import SimpleITK

            SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(self.threads)
        if case in generators.PEERS:
            return generators.MAKERS[case](problem)
        if case == ARTEFACTS:
            return generators.ours(problem, self.device, **generators.ARTEFACTS)
        if case == OVERSAMPLED:
            return generators.ours(problem, self.device, oversampling=2)
        return generators.ours(problem, self.device)


def times(
    setting: Setting, cases: Sequence[str], rounds: int, images: int
) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of an image of each case."""
    problem = setting.problem()
    makers = {case: setting.make(case, problem) for case in cases}
    for case in cases:
        # Peers are slow: what they load is loaded with a small image.
        warm = setting.make(case, setting.problem(4)) if case in generators.PEERS else makers[case]
        warm(10**6)
    counts = {case: 1 if case in generators.PEERS else images for case in cases}
    taken: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    for number in range(rounds):
        for case, make in makers.items():
            count = counts[case]
            _wait(setting.device)
            clock, processor = time.perf_counter(), time.process_time()
            for image in range(count):
                make(number * count + image)
            _wait(setting.device)
            taken[case].append(
                (
                    (time.perf_counter() - clock) / count,
                    (time.process_time() - processor) / count,
                )
            )
    return {
        case: {
            "cpu_time": statistics.median(cpu for _, cpu in pairs),
            "time": statistics.median(wall for wall, _ in pairs),
        }
        for case, pairs in taken.items()
    }


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


class Traffic(TorchDispatchMode):
    """Counts operations on large tensors, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.operations = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        written = [a for a in tree_leaves(result) if isinstance(a, torch.Tensor)]
        if any(argument.alias_info is not None for argument in func._schema.arguments) and not any(
            argument.alias_info.is_write
            for argument in func._schema.arguments
            if argument.alias_info is not None
        ):
            return result  # a view
        if func._schema.name.rsplit("::")[-1].startswith(("empty", "new_empty")):
            return result
        moved = sum(_bytes(a) for a in read + written)
        if moved >= _LARGE:
            self.operations += 1
            self.bytes += moved
        return result


def _bytes(a: torch.Tensor) -> int:
    """Bytes of a tensor that are in memory; an expanded axis is one voxel of it."""
    sizes = [n for n, stride in zip(a.shape, a.stride(), strict=True) if stride]
    return math.prod(sizes) * a.element_size() if a.numel() else 0


def traffic(setting: Setting, case: str, images: int) -> tuple[float, float, float]:
    """Mean MB that operations move, their mean number, and the MB that a single one would move."""
    problem = setting.problem()
    make = setting.make(case, problem)
    made = make(0)
    with Traffic() as counted:
        for number in range(images):
            make(number + 1)
    # Labels are read once; image, classes and groups are written once.
    fine = problem.maps[0].nbytes * (8 if case == OVERSAMPLED else 1)
    least = 2 * fine + made.image.nbytes + made.labels.nbytes
    return counted.bytes / images / 1e6, counted.operations / images, least / 1e6


def bandwidth(device: str) -> float:
    """Bytes per second that a copy on a GPU reads and writes."""
    source = torch.empty(2**28, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        _wait(device)
        clock = time.perf_counter()
        target.copy_(source)
        _wait(device)
        seconds.append(time.perf_counter() - clock)
    return 2 * source.nbytes / min(seconds)


def memory(setting: Setting, case: str) -> tuple[float, float]:
    """Peak memory of making an image, and what is held after it, MiB over what was held before."""
    if case in generators.PEERS:
        setting.make(case, setting.problem(4))(0)
    make = setting.make(case, setting.problem())
    gc.collect()
    if setting.device.startswith("cuda"):
        torch.cuda.init()
        before = torch.cuda.memory_allocated(setting.device)
        make(0)
        held = torch.cuda.memory_allocated(setting.device)
        torch.cuda.reset_peak_memory_stats(setting.device)
        make(1)
        peak = torch.cuda.max_memory_allocated(setting.device)
        return (peak - held) / 2**20, (held - before) / 2**20
    before = _status_mib("VmRSS")
    make(0)
    gc.collect()
    held, peaks = _status_mib("VmRSS"), []
    for number in range(1, 9 if case == generators.OURS else 3):
        # The peak that is accounted so far includes the imports: reset it (Linux).
        Path("/proc/self/clear_refs").write_text("5")
        make(number)
        peaks.append(_status_mib("VmHWM") - held)
    return max(peaks), held - before


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 2**10 for line in lines if line.startswith(field))


def in_own_process(setting: Setting, case: str) -> tuple[float, float]:
    """Call :func:`memory` in a fresh process, whose allocator gives freed memory back at once."""
    context = multiprocessing.get_context("spawn")
    queue: Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=_put, args=(queue, setting, case))
    before = {name: os.environ.get(name) for name in _MMAP}
    os.environ.update(_MMAP)
    try:
        process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    process.join()
    if process.exitcode:
        raise SystemExit(f"the process that measures the memory of {case} failed; see above")
    return queue.get()


def _put(queue: "Queue[tuple[float, float]]", setting: Setting, case: str) -> None:
    queue.put(memory(setting, case))


def measure(
    setting: Setting, cases: Sequence[str], rounds: int, images: int
) -> Iterator[_table.Row]:
    """Rows of all cases."""
    measured = times(setting, cases, rounds, images)
    for case in cases:
        measured[case]["memory"], measured[case]["held"] = in_own_process(setting, case)
    base = cases[0]
    for case in cases:
        if case not in generators.PEERS:
            moved, operations, least = traffic(setting, case, min(images, 8))
            measured[case] |= {"traffic": moved, "operations": operations, "least_traffic": least}
            if setting.device.startswith("cuda"):
                rate = bandwidth(setting.device) / 1e6
                measured[case] |= {"traffic_bound": moved / rate, "least_bound": least / rate}
    units = {"cpu_time": "s", "time": "s", "memory": "MiB", "held": "MiB", "traffic": "MB"}
    units |= {"operations": "", "least_traffic": "MB", "traffic_bound": "s", "least_bound": "s"}
    for metric, unit in units.items():
        for case in cases:
            if metric in measured[case]:
                value, of = measured[case][metric], measured[base].get(metric, 0.0)
                yield _table.row(case, metric, value, unit, base, of)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    parser = _table.parser(__doc__ or "")
    parser.add_argument("--label-map", type=Path, nargs="+", help="NIfTI; the example's by default")
    parser.add_argument("--shape", type=int, nargs=3, help="voxels of 1 mm")
    parser.add_argument("--engines", nargs="+", choices=list(generators.MAKERS))
    parser.add_argument("--images", type=int, default=16, help="of ours in a round")
    parser.add_argument("--rounds", type=int, help="of all generators")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    on_gpu = options.device.startswith("cuda")
    wanted = options.engines or ([generators.OURS] if on_gpu else list(generators.MAKERS))
    engines = generators.installed(wanted)
    if on_gpu and set(engines) & set(generators.PEERS):
        parser.error("other projects' generators are measured on the CPU only")
    cases = [e for e in engines if e == generators.OURS]
    cases += [ARTEFACTS] if cases else []
    cases += [OVERSAMPLED] if cases and not options.quick else []
    cases += [e for e in engines if e in generators.PEERS]
    setting = Setting(
        paths=tuple(options.label_map or generators.icbm()),
        shape=tuple(options.shape or ((80, 96, 80) if options.quick else (160, 192, 160))),
        device=options.device,
        threads=options.threads,
    )
    torch.set_num_threads(setting.threads)
    rounds = options.rounds or (2 if options.quick else 3)
    rows = list(measure(setting, cases, rounds, options.images))
    print(f"{options.device}, {setting.threads} threads, {'x'.join(map(str, setting.shape))}")
    _table.report(rows, options.json)


if __name__ == "__main__":
    main()
