"""Trainings that are killed again and again, compared with one that nobody disturbed.

Each trial starts a training in a process of its own and kills it with SIGKILL, several times: at a
random moment, in the middle of writing a checkpoint, between the renames that follow, in the middle
of writing the model's folder, and before that gets its name. Then it lets the training end. A trial
passes if the weights, theta and the log (but for the columns of seconds) are those of the undisturbed
run, bit for bit, and nothing else is left behind. The undisturbed run writes no checkpoint at all.

    python benchmarks/kill_and_resume.py [--trials N] [--quick] [--device cuda] [--json FILE]

On a GPU, whose sums depend on the order of threads, trials may fail by a rounding.
"""

import csv
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _table

from l2s_pydra import bids_examples
from l2s_pydra.config import LearnConfig

MODES = {"learn2synth": 2, "finetuned-averaged": 3}
"""And the dimensions of their images."""
STEPS = 8
Kill = dict[str, Any]


def arguments(folder: Path, mode: str, device: str = "cpu") -> dict[str, Any]:
    """Arguments of ``learn`` for the phantom, on a grid of 8 mm, with output in ``folder``."""
    root = bids_examples.path("phantom")
    names = ["sub-01_ses-01", "sub-02", "sub-03"]
    places = [root.joinpath(*name.split("_"), "anat") for name in names]
    reference = root / "derivatives" / "reference"
    maps = root / "derivatives" / "labelmaps"
    config = LearnConfig().evolve(
        spacing_mm=8.0,
        segmenter__ndim=MODES[mode],
        segmenter__width=4,
        segmenter__depth=2,
        synthesis__oversampling=1,
        training__mode=mode,
        training__steps=STEPS,
        training__theta_warmup_steps=2,
        training__wide_share=0.3,
        training__finetune_share=0.5,
        training__validate_every=3,
    )
    return {
        "images": [p / f"{n}_T1w.nii.gz" for p, n in zip(places, names, strict=True)],
        "labels": [
            reference / p.relative_to(root) / f"{n}_desc-tissue_dseg.nii.gz"
            for p, n in zip(places, names, strict=True)
        ],
        "participants": [name[:6] for name in names],
        "roles": ["learn", "learn", "validate"],
        "label_maps": sorted(maps.rglob("*_dseg.nii.gz"))[:1],
        "real_table": reference / "desc-tissue_dseg.tsv",
        "maps_table": maps / "desc-head_dseg.tsv",
        "config": config.to_dict(),
        "segmentation": "tissue",
        "out_dir": folder / "out",
        "device": device,
        "threads": 1,
        "progress": False,
    }


def kills(rng: random.Random, seconds: float, count: int) -> Iterator[Kill]:
    """Draw how a training that takes ``seconds`` is killed, ``count`` times; the last in its model."""
    for _ in range(count - 1):
        kind = rng.choice(["time", "time", "checkpoint", "rename", "step"])
        yield {
            "at": kind,
            "seconds": rng.uniform(0, seconds),
            "number": rng.randint(1, 4),
            "share": rng.random(),
        }
    yield {"at": rng.choice(["model", "name"]), "number": 1, "share": rng.random()}


def training(given: dict[str, Any], kill: Kill) -> None:
    """Train, and be killed where ``kill`` says; what a child process does."""
    from l2s_pydra.bilevel import checkpoints, state
    from l2s_pydra.steps import learn, staging

    count = 0

    def die(times: int = 1) -> None:
        nonlocal count
        count += 1
        if count >= times:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(function: Callable[..., Any], times: int) -> Callable[..., Any]:
        def replaced(*args: Any, **options: Any) -> Any:
            die(times)
            return function(*args, **options)

        return replaced

    def torn(tensors: Any, path: Path, metadata: Any) -> None:
        """Write part of a file."""
        nonlocal count
        count += 1
        save(tensors, path, metadata)
        if count >= kill["number"]:
            os.truncate(path, int(kill["share"] * path.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    save = state.save_file
    at, number = kill["at"], kill.get("number", 1)
    if at == "checkpoint":
        state.save_file = torn
    elif at == "rename":
        # Each checkpoint has several: of the file that was written, of those before, of its own.
        moving = type("Moving", (type(Path()),), {"replace": before(Path.replace, 3 * number)})
        checkpoints.Path = moving
        state.Path = moving
    elif at == "step":
        learn._told = before(learn._told, number)
    elif at == "model":
        learn.write_samples = before(learn.write_samples, 1)
    elif at == "name":
        staging._exchange = before(staging._exchange, 1)
    learn.learn(**given)


def run(given: dict[str, Any], kill: Kill) -> bool:
    """Train in a process of its own; whether it ended by itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["l2s_pydra.steps.learn", "l2s_pydra.bilevel.training"])
    process = context.Process(target=training, args=(given, kill))
    process.start()
    process.join(kill["seconds"] if kill["at"] == "time" else None)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the training failed with the exit code {process.exitcode}")
    return process.exitcode == 0


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on interruptions: the model's name, its files, the log without time."""
    (model,) = (folder / "out").iterdir()
    with (model / "training.tsv").open(newline="") as file:
        log = [
            {key: value for key, value in row.items() if not key.endswith("seconds")}
            for row in csv.DictReader(file, delimiter="\t")
        ]
    files = ("weights.safetensors", "theta.json", "samples/learned.npz")
    return {"name": model.name, "log": log, **{name: (model / name).read_bytes() for name in files}}


def undisturbed(folder: Path, mode: str, device: str = "cpu") -> tuple[dict[str, Any], float]:
    """Outcome of a run without checkpoints, and how many seconds it took."""
    started = time.monotonic()
    run(arguments(folder, mode, device), {"at": "end"})
    return outcome(folder), time.monotonic() - started


def trial(
    folder: Path, mode: str, expected: dict[str, Any], drawn: list[Kill], device: str = "cpu"
) -> list[str]:
    """Train with interruptions; what differs from ``expected``."""
    given = arguments(folder, mode, device) | {
        "checkpoint_dir": folder / "checkpoints",
        "checkpoint_every": 1,
    }
    for kill in drawn:
        run(given, kill)
    if not run(given, {"at": "end"}):
        return ["it did not end"]
    found = outcome(folder)
    wrong = [name for name, value in expected.items() if found[name] != value]
    left = {path.name for path in (folder / "checkpoints").iterdir()}
    if left != {"training.safetensors", "training.1.safetensors", "learn.json"}:
        wrong.append(f"files left: {sorted(left)}")
    return wrong


def main() -> None:
    """Run the trials and print how many passed."""
    options = _table.parser(__doc__ or "")
    options.add_argument("--trials", type=int, help="of each mode; 20, or 2 with --quick")
    chosen = options.parse_args()
    count = chosen.trials or (2 if chosen.quick else 20)
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for mode in MODES:
            expected, seconds = undisturbed(Path(name) / mode, mode, chosen.device)
            passed = 0
            for number in range(count):
                folder = Path(name) / f"{mode}-{number}"
                drawn = list(kills(random.Random(f"{mode} {number}"), seconds, 5))
                wrong = trial(folder, mode, expected, drawn, chosen.device)
                passed += not wrong
                places = ", ".join(kill["at"] for kill in drawn)
                print(f"{mode}, trial {number + 1}, killed at {places}: {wrong or 'the same'}")
                shutil.rmtree(folder)
            rows.append(_table.row(mode, "passes", passed, f"of {count}", mode, 0))
    _table.report(rows, chosen.json)


if __name__ == "__main__":
    main()
