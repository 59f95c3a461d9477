"""What grows with the number of participants: index, start, run, a second run, memory.

A data set of many participants is generated (seven images and tables each, hard links to a few tiny
heads), and a real model of next to no size is trained, so that nothing is left but what the
application adds. Indexing is compared with plain ``BIDSLayout(root)`` in a process of its own; the
application is run as a user runs it, and timed by what it says. CPU time and memory are those of the
parent process, which is what the number of participants falls on; a line for each image says when it
was done. A second run finds everything done, a third finds one participant more.

    python benchmarks/scale.py [--participants N] [--nprocs N] [--folder DIR]
        [--quick] [--device cpu] [--json FILE]
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import _table

from l2s_pydra import bids_examples
from l2s_pydra.bids_examples.make_varied import make_many

TINY = (
    *("--steps", "4", "--spacing-mm", "4", "--set", "segmenter.width=2"),
    *("--set", "training.validate_every=2", "--set", "training.theta_warmup_steps=1"),
)
INDEXING = {
    "index, plain pybids": "layout = BIDSLayout(root)",
    "index, pybids without metadata": (
        "layout = BIDSLayout(root, indexer=BIDSLayoutIndexer(index_metadata=False))"
    ),
    "index, everyone": "find_images(root)",
    "index, 3 participants": "find_images(root, participants=['00001', '00002', '00003'])",
    "index, kept": "find_images(root, database_dir=kept)",
}
_DONE = re.compile(r": done in \d+ s ")
"""What is said of an image that has just been segmented."""
_TIMED = """
import sys, time
from bids.layout import BIDSLayout, BIDSLayoutIndexer
from l2s_pydra.bids.dataset import find_images
root, kept = sys.argv[1:]
start = time.process_time()
{}
print(time.process_time() - start)
"""


def indexing(root: Path, kept: Path) -> list[_table.Row]:
    """CPU seconds of each way to index; the one that is kept, when it is there already."""
    base = next(iter(INDEXING))
    seconds: dict[str, float] = {}
    for case in (*INDEXING, "index, kept"):
        code = _TIMED.format(INDEXING[case])
        done = subprocess.run(
            [sys.executable, "-c", code, str(root), str(kept)],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds[case] = float(done.stdout)
    return [
        _table.row(case, "cpu_time", value, "s", base, seconds[base])
        for case, value in seconds.items()
    ]


def application(arguments: Sequence[str]) -> dict[str, float]:
    """Run the application; seconds of its phases, CPU seconds and memory of its parent process."""
    command = [sys.executable, "-m", "l2s_pydra.workflows.cli", *arguments]
    started, marks, said, memory = time.perf_counter(), [], [], 0.0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if _DONE.search(line):
                marks.append(time.perf_counter() - started)
            memory = max(memory, _peak_mb(process.pid))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    whole = time.perf_counter() - started
    if process.returncode:
        sys.exit("".join(said[-20:]))
    first, last = (marks[0], marks[-1]) if marks else (whole, whole)
    return {
        "time": whole,
        "until_first": first,
        "segmenting": last - first,
        "after_last": whole - last,
        "parent_cpu": usage.ru_utime + usage.ru_stime,
        "parent_memory": memory,
        "images": len(marks),
    }


def _peak_mb(pid: int) -> float:
    """Most memory that a running process ever held, where Linux tells."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else 0.0


_UNITS = {"parent_memory": "MB", "images": ""}


def rows(measured: dict[str, dict[str, float]]) -> list[_table.Row]:
    """One row for each figure of each run, relative to the first run."""
    base = next(iter(measured))
    return [
        _table.row(case, name, value, _UNITS.get(name, "s"), base, measured[base][name])
        for case, figures in measured.items()
        for name, value in figures.items()
    ]


def run(folder: Path, participants: int, n_procs: int, device: str) -> list[_table.Row]:
    """Generate, index, train, run three times."""
    root = make_many(folder / "many", participants=participants + 1)
    late = f"sub-{participants + 1:05d}"
    (root / late).rename(folder / late)  # who comes later
    made = indexing(root, folder / "kept")
    phantom = bids_examples.path("phantom")
    labels = ("--real-labels", str(phantom / "derivatives" / "reference"))
    more = ("--work-dir", str(folder / "work"), "--nprocs", str(n_procs), "--device", device)
    application([str(phantom), str(folder / "learned"), "learn", *labels, *TINY, *more])
    (model,) = (folder / "learned" / "models").iterdir()
    arguments = [
        *(str(root), str(folder / "l2s_pydra"), "participant", "group", *more),
        *("--model", str(model), "--skip-bids-validation"),
    ]
    measured = {"run": application(arguments), "nothing to do": application(arguments)}
    (folder / late).rename(root / late)
    measured["one participant more"] = application(arguments)
    return made + rows(measured)


def main() -> None:
    """Measure and print."""
    parser = _table.parser((__doc__ or "").split("\n\n")[0])
    parser.add_argument("--participants", type=int, help="1000, or 30 with --quick")
    parser.add_argument("--nprocs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="keeps everything, to look at; must be new")
    options = parser.parse_args()
    participants = options.participants or (30 if options.quick else 1000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        made = run(folder, participants, options.nprocs, options.device)
    print(f"{participants} participants, {_table.machine(options.device)}")
    _table.report(made, options.json)


if __name__ == "__main__":
    main()
