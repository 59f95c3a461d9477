"""Segmentation of one head: time, memory, agreement; whole, in tiles, and by MONAI's tiles.

A head of 160 x 192 x 160 voxels of 1 mm with noise around it (so that nothing is cropped), 33 labels,
a U-Net of 5 levels and 24 to 384 channels, bf16. All cases but the last two use the same network, and
go from the normalised image to posteriors in full precision:

    whole          slabs over the whole volume, as is done by default
    tiled          tiles of at most 128 voxels, which overlap by 16
    limited        tiles as large as half the memory of `whole` beyond the posteriors allows for
    network        the network as in training, under autocast, over the whole volume
    monai          sliding_window_inference, tiles of 96, overlap a quarter, Gaussian weights
    monai, half    the same, overlap a half
    segment        from the file to labels on its grid, by `load_model(...).segment(...)`, no mirror image
    segment, flip  the same and the mirror image, as is done by default

Cases take turns; times are medians. Memory is that of a process for each case: the peak over what it
holds before the first posteriors are computed (the network and the image). `agreement` is the share of
voxels with the label of the network in full precision over the whole volume. Weights are random unless
a model is given; labels of random weights lie closer to one another than those of a trained network,
so that rounding changes more of them.

    pip install monai  # optional
    python benchmarks/inference.py [--quick] [--device cuda] [--threads 2] [--model DIR]
        [--image FILE] [--cases NAME ...] [--json FILE]
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import _table
import attrs
import nibabel as nb
import numpy as np
import torch
from torch import Tensor

from l2s_pydra import load_model
from l2s_pydra.config import LearnConfig
from l2s_pydra.images import Conform, load_image
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.normalisation import normalise
from l2s_pydra.segmentation import Model, Segmenter
from l2s_pydra.segmentation.inference import predict
from l2s_pydra.segmentation.planning import plan_prediction

OURS = ("whole", "tiled", "limited", "network")
PEERS = {"monai": 0.25, "monai, half": 0.5}
PIPELINES = ("segment", "segment, flip")
CASES = (*OURS, *PEERS, *PIPELINES)
LABELS = 33


@attrs.frozen(kw_only=True)
class Setting:
    """What is measured, and where."""

    model: Path
    image: Path
    device: str
    threads: int
    tile: int
    window: int


def write_model(folder: Path, *, width: int, depth: int) -> None:
    """Write a model of random weights."""
    torch.manual_seed(0)
    learn = LearnConfig().evolve(
        spacing_mm=1.0,
        segmenter__width=width,
        segmenter__depth=depth,
        training__precision="bf16",
    )
    scheme = LabelScheme([Label(index=i, name=f"structure{i}") for i in range(LABELS)])
    segmenter = Segmenter(learn.segmenter, LABELS)
    with torch.no_grad():
        # Posteriors as decided as a trained network's are.
        segmenter.unet.final.weight.mul_(4)
    record = {"learn": learn.to_dict(), "segmentation": "benchmark", "name": "benchmark"}
    Model(segmenter=segmenter, scheme=scheme, config=record).save(folder)


def write_head(path: Path, shape: Sequence[int]) -> None:
    """Write nested ellipsoids, folded like a cortex, in noise."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1.1, 1.1, n, dtype=np.float32) for n in shape))[:3]
    radius = np.sqrt(x**2 + y**2 + z**2) + 0.02 * np.sin(20 * x) * np.sin(20 * y) * np.sin(20 * z)
    head = np.select(
        [radius < 0.25, radius < 0.6, radius < 0.75, radius < 0.9, radius < 1],
        [40, 110, 80, 20, 95],
        0,
    ).transpose(1, 0, 2)
    noisy = np.hypot(head + rng.normal(0, 4, head.shape), rng.normal(0, 4, head.shape))
    nb.Nifti1Image(noisy.astype(np.float32), np.diag([1.0, 1, 1, 1])).to_filename(path)


def volume_of(setting: Setting) -> Tensor:
    """Return the image on the working grid."""
    volume = load_image(setting.image)
    conform = Conform.to_grid(volume, load_model(setting.model).model.spacing_mm)
    return torch.from_numpy(conform.image(volume.data - volume.data.min()))


def case_of(name: str, setting: Setting, model: Model, image: Tensor) -> Callable[[], Tensor]:
    """Return what a case computes: posteriors (K, X, Y, Z) or labels (X, Y, Z)."""
    if name in PIPELINES:
        return _pipeline(name, setting)
    if name in PEERS:
        return _monai(name, setting, model, image)
    if name == "network":
        return lambda: _plain(model.segmenter, image, setting.device, torch.bfloat16)
    options: dict[str, Any] = {
        "whole": {"tiles": None},
        "tiled": {"tiles": setting.tile},
        "limited": {"memory_mb": _limit(setting, model, image) / 1e6},
    }[name]

    def run() -> Tensor:
        return predict(
            model.segmenter, image, device=setting.device, precision="bf16", **options
        ).whole()

    return run


def _pipeline(name: str, setting: Setting) -> Callable[[], Tensor]:
    loaded = load_model(setting.model)

    def run() -> Tensor:
        found = loaded.segment(
            setting.image, device=setting.device, threads=setting.threads, flip="flip" in name
        )
        return torch.from_numpy(np.asarray(found.labels.dataobj))

    return run


def _monai(name: str, setting: Setting, model: Model, image: Tensor) -> Callable[[], Tensor]:
    from monai.inferers import sliding_window_inference

    network = model.segmenter.to(setting.device).eval()
    kind = torch.device(setting.device).type

    def run() -> Tensor:
        x = normalise(image[None, None].clone()).to(setting.device)
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16):
            logits = sliding_window_inference(
                x, (setting.window,) * 3, 1, network, overlap=PEERS[name], mode="gaussian"
            )
            return logits[0].float().softmax(0).cpu()

    return run


def _plain(segmenter: Segmenter, image: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    network = segmenter.to(device).eval()
    x = normalise(image[None, None].clone()).to(device)
    pad = [p for n in reversed(image.shape) for p in (0, -n % segmenter.multiple)]
    reduced = dtype != torch.float32
    with (
        torch.no_grad(),
        torch.autocast(torch.device(device).type, torch.bfloat16, enabled=reduced),
    ):
        a, b, c = image.shape
        logits = network(torch.nn.functional.pad(x, pad))[0, :, :a, :b, :c]
        return logits.float().softmax(0).cpu()


def _plan(setting: Setting, model: Model, image: Tensor, **options: Any) -> Any:
    shape = tuple(image.shape)
    plan, _ = plan_prediction(
        model.segmenter,
        shape,
        shape,
        device=torch.device(setting.device),
        dtype=torch.bfloat16,
        **options,
    )
    return plan


def _limit(setting: Setting, model: Model, image: Tensor) -> float:
    plan = _plan(setting, model, image, tiles=None)
    return float(plan.peak - plan.footprint.passing / 2)


def predicted(name: str, setting: Setting, model: Model, image: Tensor) -> float | None:
    """Return the memory that is predicted for a case, bytes; None for what is not ours."""
    if name == "whole":
        return float(_plan(setting, model, image, tiles=None).peak)
    if name == "tiled":
        return float(_plan(setting, model, image, tiles=setting.tile).peak)
    if name == "limited":
        return float(
            _plan(setting, model, image, memory_mb=_limit(setting, model, image) / 1e6).peak
        )
    return None


def labels_of(found: Tensor) -> Tensor:
    """Most probable label, of posteriors; labels as they are."""
    return found.argmax(0) if found.ndim == 4 else found.long()


def peak(setting: Setting, name: str) -> int:
    """Peak of a case in this process, bytes."""
    torch.set_num_threads(setting.threads)
    model, image = Model.load(setting.model), volume_of(setting)
    # Libraries load and keep things when they are first used.
    small = image[:48, :48, :48].clone()
    predict(model.segmenter, small, device=setting.device, precision="bf16")
    run = case_of(name, setting, model, image)
    cuda = setting.device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize(setting.device)
        torch.cuda.reset_peak_memory_stats(setting.device)
        before = torch.cuda.memory_allocated(setting.device)
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    run()
    after = torch.cuda.max_memory_allocated(setting.device) if cuda else _status("VmHWM")
    return after - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def in_own_process(setting: Setting, name: str) -> int:
    """Return :func:`peak` of a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue: Queue[int] = context.Queue()
    process = context.Process(target=_put, args=(queue, setting, name))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"measuring {name} failed; the error is above")
    return queue.get()


def _put(queue: "Queue[int]", setting: Setting, name: str) -> None:
    queue.put(peak(setting, name))


def measure(setting: Setting, cases: Sequence[str], repeats: int) -> list[_table.Row]:
    """Rows of all cases."""
    torch.set_num_threads(setting.threads)
    model, image = Model.load(setting.model), volume_of(setting)
    runs = {name: case_of(name, setting, model, image) for name in cases}
    expected = labels_of(_plain(model.segmenter, image, setting.device, torch.float32))
    indices = torch.tensor(model.scheme.indices)
    share = {}
    for name, run in runs.items():
        found = labels_of(run())
        target = indices[expected] if name in PIPELINES else expected
        share[name] = (
            float((found == target).float().mean()) if found.shape == target.shape else None
        )
    times = _table.interleaved(runs, repeats, setting.device)
    base = cases[0]
    memory = {name: float(in_own_process(setting, name)) for name in cases}
    rows = []
    for name in cases:
        for metric in ("time", "cpu_time"):
            value = times[name][metric]
            rows.append(_table.row(name, metric, value, "s", base, times[base][metric]))
        rows.append(_table.row(name, "memory", memory[name] / 1e6, "MB", base, memory[base] / 1e6))
        foreseen = predicted(name, setting, model, image)
        if foreseen is not None:
            rows.append(
                _table.row(name, "predicted", foreseen / 1e6, "MB", "memory", memory[name] / 1e6)
            )
        if share[name] is not None:
            rows.append(_table.row(name, "agreement", 100 * share[name], "%", base, 0))
    return rows


def options_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Understand the command line."""
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of PyTorch")
    parser.add_argument("--shape", type=int, nargs=3, help="voxels of the head")
    parser.add_argument("--width", type=int, default=24, help="channels of the first level")
    parser.add_argument("--depth", type=int, default=5, help="levels of the network")
    parser.add_argument("--repeats", type=int, help="runs of each case")
    parser.add_argument("--model", type=Path, help="folder of a model instead of random weights")
    parser.add_argument("--image", type=Path, help="image instead of the made-up head")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--markdown", action="store_true", help="print a table for the documentation"
    )
    return parser.parse_args()


def main() -> None:
    """Run, print, write."""
    options = options_of(_table.parser(__doc__ or ""))
    cases = [name for name in options.cases if name not in PEERS or find_spec("monai")]
    for name in set(options.cases) - set(cases):
        print(f"{name}: left out, MONAI is not installed")
    shape = options.shape or ((96, 96, 96) if options.quick else (160, 192, 160))
    with tempfile.TemporaryDirectory() as folder:
        model, image = options.model or Path(folder) / "model", options.image
        if not options.model:
            write_model(model, width=options.width, depth=options.depth)
        if not image:
            image = Path(folder) / "head.nii"
            write_head(image, shape)
        setting = Setting(
            model=model,
            image=image,
            device=options.device,
            threads=options.threads,
            tile=128 if max(shape) > 128 else 64,
            window=96 if max(shape) > 128 else 64,
        )
        rows = measure(setting, cases, options.repeats or (1 if options.quick else 3))
    print(_table.machine(options.device))
    _table.report(rows, options.json)
    if options.markdown:
        print(_table.markdown(rows))


if __name__ == "__main__":
    main()
