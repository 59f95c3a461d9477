"""Cost of one training step with a hypergradient, over one without.

The segmenter of the quick preset on a grid of one brain, the contrast augmentation on a synthetic
head of nested ellipsoids, cross-entropy and Dice, Adam. The baseline is the plain synthetic step of
the same precision, given a finished image; a hypergradient step renders its image through the
augmentation.

    python benchmarks/step_cost.py [--quick] [--device cuda] [--json FILE]
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import _table
import torch

from l2s_pydra.augmentation import build_augmentation
from l2s_pydra.bilevel import hypergradient as hg
from l2s_pydra.bilevel import updates
from l2s_pydra.bilevel.passes import Predict
from l2s_pydra.config import SynthesisConfig, preset
from l2s_pydra.segmentation import Segmenter, build_loss
from l2s_pydra.synthesis import GenerationLabels, Synthesizer

CASES = ("plain", "one_sided_difference", "exact")
CLASSES = 16


def head(shape: tuple[int, ...]) -> torch.Tensor:
    """Nested ellipsoids with labels 1 to 15."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    radius = sum(a**2 for a in torch.meshgrid(*axes, indexing="ij")).sqrt()
    return ((1 - radius).clamp_min(0) * CLASSES).clamp_max(CLASSES - 1).to(torch.uint8)


def steps(shape: tuple[int, ...], device: str, precision: str) -> dict[str, Callable[[], object]]:
    """One callable a case; each does one training step."""
    config = preset("quick", ndim=len(shape))
    torch.manual_seed(0)
    fine = tuple(2 * n for n in shape)
    names = ["outside", *(f"structure {i}" for i in range(1, CLASSES))]
    identity = torch.arange(CLASSES)
    labels = GenerationLabels(
        group=identity.to(torch.uint8),
        channel=identity,
        group_names=names,
        swap=identity.to(torch.uint8),
        n_channels=CLASSES,
    )
    synthesizer = Synthesizer(
        label_maps=[head(fine)], labels=labels, config=SynthesisConfig(), spacing_mm=2.5
    )
    sample = synthesizer.render([synthesizer.draw(0, appearance=False)], device)
    augmentation = build_augmentation(
        "contrast", ndim=len(shape), group_names=names, options={}
    ).to(device)
    real, target, loss = sample.image.flip(0), sample.target, build_loss("ce_dice")

    def value(predict: Predict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        kind = torch.device(device).type
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            logits = predict(x)
        return loss(logits.float(), y)

    def case(name: str) -> Callable[[], object]:
        net = Segmenter(config.segmenter, CLASSES).to(device)
        net.to(memory_format=net.layout)
        rule = updates.adam()
        state = {"now": rule.init(list(net.parameters()))}

        def plain() -> None:
            state["now"] = hg.plain_step(
                net,
                rule,
                state["now"],
                loss=lambda predict: value(predict, sample.image, target),
                learning_rate=1e-3,
            ).state

        def bilevel() -> None:
            estimator = hg.Exact() if name == "exact" else hg.OneSidedDifference(epsilon=1e-2)
            result = estimator(
                net,
                rule,
                state["now"],
                augment=lambda: augmentation(sample),
                synthetic_loss=lambda predict, x, part: value(predict, x, target[part]),
                real_loss=lambda predict: value(predict, real, target),
                theta=list(augmentation.parameters()),
                learning_rate=1e-3,
            )
            state["now"] = result.state

        return plain if name == "plain" else bilevel

    return {name: case(name) for name in CASES}


def _peak(shape: tuple[int, ...], device: str, precision: str, name: str, queue: object) -> None:
    """Peak memory of three steps, MiB, above what is held before them."""
    run = steps(shape, device, precision)[name]
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        # The peak that getrusage gives is inherited from the parent: reset it (Linux).
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    for _ in range(3):
        run()
    on_gpu = device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _status("VmHWM")
    queue.put(peak - before)  # type: ignore[attr-defined]


def _status(field: str) -> float:
    """Memory of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 2**10 for line in lines if line.startswith(field))


def main() -> None:
    """Run, print, write."""
    options = _table.parser(__doc__ or "").parse_args()
    shape = (48, 48, 48) if options.quick else (64, 80, 64)
    rows = []
    context = multiprocessing.get_context("spawn")
    for precision in ("fp32", "bf16"):
        cases = steps(shape, options.device, precision)
        measured = _table.interleaved(cases, 3 if options.quick else 5, options.device)
        base = f"plain {precision}"
        for metric in ("time", "cpu_time"):
            for name in CASES:
                value, of = measured[name][metric], measured["plain"][metric]
                rows.append(_table.row(f"{name} {precision}", metric, value, "s", base, of))
        peaks = {}
        for name in CASES:
            queue = context.Queue()
            arguments = (shape, options.device, precision, name, queue)
            process = context.Process(target=_peak, args=arguments)
            process.start()
            peaks[name] = float(queue.get())
            process.join()
        rows += [
            _table.row(f"{n} {precision}", "memory", p, "MiB", base, peaks["plain"])
            for n, p in peaks.items()
        ]
    _table.report(rows, options.json)


if __name__ == "__main__":
    main()
