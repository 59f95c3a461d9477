"""What an engine costs for each image, beside a plain loop that calls the step.

Images are small (24 x 24 x 24 voxels) and the network has one level, so that there is little to wait for
but the engine. Every path segments the same images with the same model, one process at a time:

    loop                the function `segment`, in this process
    pydra debug         `SegmentDataset`, Pydra's worker `debug`
    pydra cf            the same, `cf` with one process
    pydra L2SWorker     the same, our worker with one process
    nipype Linear       a workflow of one `init_segment_wf` an image
    nipype MultiProc    the same, one process from a fork server
    nipype MultiProc frozen     the same after `gc.freeze()`, as Nipype collects garbage before each node
    application         `l2s-pydra ... participant`, from the data set to the published derivative

Each path runs in a process of its own, in which `loop`, `debug` and `Linear` have segmented an image
before, so that everything is imported; the others start theirs within the time that is measured.
The paths take turns; figures are medians of CPU seconds
of all processes of a path, which do not depend on what else the machine does. `overhead` is what an image takes more than in the loop. `rerun` is
a second run with nothing changed, everything in the cache.

    python benchmarks/engines.py [--quick] [--images 200] [--repeats 3] [--paths NAME ...] [--json FILE]
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _table

PATHS = (
    "loop",
    "pydra debug",
    "pydra cf",
    "pydra L2SWorker",
    "nipype Linear",
    "nipype MultiProc",
    "nipype MultiProc frozen",
    "application",
)
SIDE = 24


def write_dataset(root: Path, count: int) -> None:
    """Write a BIDS data set of small, different images."""
    import nibabel as nb
    import numpy as np

    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    description = {"Name": "engines", "BIDSVersion": "1.11.1"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    (root / "README").write_text("Noise, to measure engines with.\n")
    for number in range(1, count + 1):
        folder = root / f"sub-{number:03d}" / "anat"
        folder.mkdir(parents=True)
        data = rng.normal(100, 20, (SIDE,) * 3).astype(np.float32)
        data[:4] = 0
        image = nb.Nifti1Image(data, np.diag([4.0, 4, 4, 1]))
        image.to_filename(folder / f"sub-{number:03d}_T1w.nii.gz")


def write_model(folder: Path) -> None:
    """Write a model of random weights, as small as there can be."""
    import torch

    from l2s_pydra import __version__
    from l2s_pydra.config import preset
    from l2s_pydra.labels import Label, LabelScheme
    from l2s_pydra.segmentation import Model, Segmenter

    torch.manual_seed(0)
    learn = preset("quick").evolve(
        spacing_mm=4.0, segmenter__width=2, segmenter__depth=1, segmenter__convolutions=1
    )
    scheme = LabelScheme([Label(index=1, name="one"), Label(index=2, name="two")])
    record = {
        "learn": learn.to_dict(),
        "segmentation": "engines",
        "name": "engines",
        "version": __version__,
        "skull_stripped": True,
    }
    segmenter = Segmenter(learn.segmenter, len(scheme))
    Model(segmenter=segmenter, scheme=scheme, config=record).save(folder)


def files_of(model: Path) -> dict[str, Path]:
    names = {"weights": "weights.safetensors", "config": "config.json", "labels": "labels.tsv"}
    return {key: model / name for key, name in names.items()}


def run_path(path: str, data: Path, model: Path, work: Path) -> int:
    """Segment everything on one path; return the number of segmentations."""
    from l2s_pydra.bids.dataset import find_images

    if path == "application":
        return _application(data, model, work)
    images = find_images(data)
    if path == "loop":
        return _loop(images, model, work)
    engine, _, how = path.partition(" ")
    return (_pydra if engine == "pydra" else _nipype)(how, images, model, work)


def _loop(images: Any, model: Path, work: Path) -> int:
    from l2s_pydra.steps.segment import segment

    done = [
        segment(
            image=image.path,
            **files_of(model),
            entities=image.entities,
            source=image.relative_path,
            out_dir=work / image.name,
            device="cpu",
            threads=1,
        )
        for image in images
    ]
    return len(done)


def _pydra(worker: str, images: Any, model: Path, work: Path) -> int:
    from l2s_pydra.tasks import Resources
    from l2s_pydra.workflows.segment import SegmentDataset
    from l2s_pydra.workflows.worker import L2SWorker, Submitter

    task = SegmentDataset(
        images=[image.path for image in images],
        entities=[image.entities for image in images],
        sources=[image.relative_path for image in images],
        **files_of(model),
        resources=Resources(device="cpu", threads=1),
    )
    options: dict[str, Any] = {
        "debug": {"worker": "debug"},
        "cf": {"worker": "cf", "n_procs": 1},
        "L2SWorker": {"worker": L2SWorker(n_procs=1, gpus=0)},
    }[worker]
    with Submitter(cache_root=work / "cache", **options) as submitter:
        result = submitter(task, raise_errors=False)
    return len(result.outputs.trees)


def _nipype(plugin: str, images: Any, model: Path, work: Path) -> int:
    from nipype import logging
    from nipype.pipeline import engine as pe

    from l2s_pydra.workflows.nipype import init_segment_wf

    logging.getLogger("nipype.workflow").setLevel("ERROR")
    both = pe.Workflow(name="all", base_dir=str(work))
    both.config["execution"] = {"poll_sleep_duration": "0.1", "crashdump_dir": str(work)}
    files = {name: str(file) for name, file in files_of(model).items()}
    for image in images:
        segment_wf = init_segment_wf(name=image.name.replace("-", "_"), mem_gb=0.1)
        segment_wf.inputs.inputnode.trait_set(
            image=str(image.path), entities=image.entities, source=image.relative_path, **files
        )
        both.add_nodes([segment_wf])
    arguments = {"n_procs": 1, "memory_gb": 4, "n_gpu_procs": 0, "mp_context": "forkserver"}
    plugin, _, frozen = plugin.partition(" ")
    if frozen:
        gc.freeze()
    both.run(plugin=plugin, plugin_args=arguments if plugin == "MultiProc" else {})
    return len(list(work.glob("all/*/segment/tree/**/*_dseg.nii.gz")))


def _application(data: Path, model: Path, work: Path) -> int:
    from l2s_pydra.workflows.cli import main

    output = work / "l2s_pydra"
    code = main(
        [
            *(str(data), str(output), "participant", "--model", str(model)),
            *("--work-dir", str(work / "work"), "--nprocs", "1", "--device", "cpu"),
            "--skip-bids-validation",
        ]
    )
    assert code == 0, code
    return len(list(output.glob("sub-*/anat/*_dseg.nii.gz")))


Times = tuple[float, ...]
"""CPU and wall seconds of the first run, then of the second."""


def measure(path: str, data: Path, model: Path, count: int) -> Times:
    """Times of both runs of a path, in a session of processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"NO_ET": "1", "NIPYPE_NO_ET": "1", "OMP_NUM_THREADS": "1", "HOME": folder}
        done = subprocess.run(
            [sys.executable, __file__, "--child", path, str(data), str(model), str(count), folder],
            env={**os.environ, **quiet},
            start_new_session=True,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{path}: {done.stderr[-2000:]}")
    return tuple(map(float, done.stdout.splitlines()[-1].split()))


def session_cpu() -> float:
    """CPU seconds of all processes of this session, those that have ended included (Linux)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == os.getsid(0):
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def child(path: str, data: str, model: str, count: str, folder: str) -> None:
    """Run a path twice and print the times."""
    times: list[float] = []
    if path in ("loop", "pydra debug", "nipype Linear"):
        # The others import what they need in processes of their own, which is part of their cost.
        from l2s_pydra.bids.dataset import find_images

        with tempfile.TemporaryDirectory() as warm:
            _loop(find_images(Path(data))[:1], Path(model), Path(warm))
    for _ in range(2):
        started, processor = time.perf_counter(), session_cpu()
        done = run_path(path, Path(data), Path(model), Path(folder))
        times += [session_cpu() - processor, time.perf_counter() - started]
        assert done == int(count), (done, count)
    print(*times)


def main() -> None:
    options = _table.parser(__doc__)
    options.add_argument("--images", type=int, help="number of images")
    options.add_argument("--repeats", type=int, help="runs of each path")
    options.add_argument("--paths", nargs="+", default=list(PATHS), choices=PATHS)
    given = options.parse_args()
    count = given.images or (20 if given.quick else 200)
    repeats = given.repeats or (1 if given.quick else 3)
    times: dict[str, list[Times]] = {path: [] for path in given.paths}
    with tempfile.TemporaryDirectory() as folder:
        data, model = Path(folder) / "data", Path(folder) / "model-engines"
        write_dataset(data, count)
        write_model(model)
        for _ in range(repeats):
            for path in given.paths:
                times[path].append(measure(path, data, model, count))
    _report(times, count, given)


def _report(times: dict[str, list[Times]], count: int, given: Any) -> None:
    medians = {
        path: [statistics.median(values) for values in zip(*runs, strict=True)]
        for path, runs in times.items()
    }
    base = medians["loop"][0] if "loop" in medians else float("nan")
    machine = _table.machine("cpu")
    print(f"{count} images, {machine}; medians of {len(next(iter(times.values())))}; CPU seconds")
    print(f"{'path':<24}{'ms/image':>10}{'overhead ms':>13}{'ratio':>8}{'rerun s':>9}{'wall s':>9}")
    rows = []
    for path, (cpu, wall, again, _) in medians.items():
        row = {
            "path": path,
            "images": count,
            "cpu_seconds": cpu,
            "overhead_ms": 1000 * (cpu - base) / count,
            "ratio": cpu / base,
            "rerun_cpu_seconds": again,
            "wall_seconds": wall,
            "machine": machine,
        }
        print(
            f"{path:<24}{1000 * cpu / count:>10.1f}{row['overhead_ms']:>13.1f}{row['ratio']:>8.2f}"
            f"{again:>9.1f}{wall:>9.1f}"
        )
        rows.append(row)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
