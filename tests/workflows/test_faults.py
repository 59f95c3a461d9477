"""What can go wrong from outside: the next run completes, and nothing is lost or half-written.

All paths have spaces and letters beyond ASCII.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest

from l2s_pydra.bids.manifest import Manifest
from l2s_pydra.bids.publishing import HIDDEN
from l2s_pydra.bids.verifying import verify
from l2s_pydra.steps import report
from l2s_pydra.workflows.cli import main
from l2s_pydra.workflows.worker import L2SWorker

ALONE = ("--nprocs", "1")
KILLED = """
import os, signal, sys
from l2s_pydra.bids import publishing
from l2s_pydra.workflows.cli import main
moves, move = iter(range(int(sys.argv[1]))), publishing._move
def move_or_die(temporary, target):
    if next(moves, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    move(temporary, target)
publishing._move = move_or_die
main(sys.argv[2:])
"""
"""The application, killed when it gives its n-th file a name."""


@attrs.frozen
class Place:
    """A data set and where its derivative goes."""

    data: Path
    output: Path
    work: Path
    arguments: tuple[str, ...]

    @property
    def all(self):
        return (self.data, self.output, self.work, *self.arguments)

    def is_whole(self, *participants):
        """Whether everything is there, as recorded, and nothing else."""
        found = verify(self.output, self.data)
        assert found.is_good, found
        assert not found.extra
        assert sorted(path.name for path in (self.output / HIDDEN).iterdir()) == [
            "lock",
            "uses.json",
        ]
        for who in participants:
            manifest = Manifest.read(self.output / f"sub-{who}" / "log" / "manifest.json")
            images = {p.name for p in (self.data / f"sub-{who}").rglob("*_T1w.nii.gz")}
            assert {Path(image.source).name for image in manifest.images.values()} == images
            page = (self.output / f"sub-{who}.html").read_text(encoding="utf-8")
            for image in manifest.images.values():
                assert all((self.output / name).is_file() for name in image.outputs)
                (figure,) = (name for name in image.outputs if name.endswith(".png"))
                assert figure in page
        return True


@pytest.fixture
def place(data, model, tmp_path):
    """The phantom data set in a place with an awkward name, and few of its participants."""
    root = tmp_path / "größte Daten (neu)"
    root.mkdir()
    data = data.rename(root / "röhre 1")
    arguments = ("participant", "--skip-bids-validation", "--model", str(model))
    output = root / "derivatives" / "l2s_pydra"
    return Place(data, output, root / "work dir", arguments)


def last(run, text):
    assert text in run.said, run.said


def wait_for(process, text):
    """Read what a process says until a text comes."""
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return "".join(said)
    raise AssertionError("".join(said))


def descendants(pid):
    """Processes below a process, by their ids."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [below for child in found for below in descendants(child)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_workers_and_parents_that_are_killed(place, app, start, environment, command_line):
    few = ("--participant-label", "01", "04")
    # A worker dies while it segments: its image fails, the others are done.
    with start(*place.all, *few, *ALONE) as process:
        wait_for(process, "segmenting 3 image(s)")
        while not (workers := [p for p in descendants(process.pid) if is_worker(p)]):
            time.sleep(0.05)
        os.kill(workers[0], signal.SIGKILL)
        said = process.stderr.read()
        assert process.wait(60) == 1, said
    assert "2 done, 0 restored, 0 reused, 1 failed" in said
    (crash,) = place.output.rglob("crash-*.txt")
    assert "SIGKILL" in crash.read_text()
    assert {path.name for path in crash.parent.iterdir()} >= {"l2s_pydra.toml", "l2s_pydra.log"}
    # The application dies while it publishes the image that had failed, between two of its files.
    arguments = command_line(*place.all, *few, *ALONE)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, "4", *arguments],
        env=environment,
        cwd=place.work,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [path.is_dir() for path in (place.output / HIDDEN).iterdir()].count(True) == 1
    run = app(*place.all, *few, *ALONE)
    assert run.code == 0, run.said
    last(run, "3 image(s): 0 done, 1 restored, 2 reused, 0 failed, 0 skipped")
    assert place.is_whole("01", "04")


def is_worker(pid):
    """Whether a process is one that segments, and not what starts them."""
    return any(is_server(parent) for parent in [parent_of(pid)])


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_server(pid):
    return b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_full_disk_and_a_place_that_is_taken(place, app):
    """The output folder is a disk of 60 kB, and where a participant's folder would be, there is a file."""
    few = ("--participant-label", "03", "04")
    place.output.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "none", str(place.output)], check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        (place.output / "sub-03").write_text("in the way")
        full = app(*place.all, *few, *ALONE)
        assert full.code != 0
        last(full, "No space left on device")
        last(full, "2 image(s): 0 done, 0 restored, 0 reused, 2 failed")
        assert "Traceback" not in full.said
        subprocess.run(["mount", "-o", "remount,size=20m", str(place.output)], check=True)
        blocked = app(*place.all, *few, *ALONE)
        assert blocked.code == 74, blocked.said
        last(blocked, "2 image(s): 0 done, 1 restored, 0 reused, 1 failed")
        last(blocked, "sub-03")
        assert verify(place.output).altered == ()
        (place.output / "sub-03").unlink()
        run = app(*place.all, *few, *ALONE)
        last(run, "2 image(s): 0 done, 1 restored, 1 reused, 0 failed")
        assert run.code == 0, run.said
        assert place.is_whole("03", "04")
    finally:
        subprocess.run(["umount", str(place.output)], check=True)


def test_a_participant_who_is_taken_away_meanwhile(place, app, start):
    few = ("--participant-label", "02", "03", "04")
    with start(*place.all, *few, *ALONE) as process:
        wait_for(process, "segmenting 3 image(s)")
        shutil.rmtree(place.data / "sub-04")
        said = process.stderr.read()
        assert process.wait(60) == 1, said
    assert "2 done, 0 restored, 0 reused, 1 failed" in said
    assert not list(place.output.glob("sub-04/anat"))
    assert place.is_whole("02", "03")


def taken_away(patch, place):
    """Take the image of a participant away when it is segmented."""
    run = L2SWorker._run_in_process

    async def run_and_take_away(self, job, *details):
        await run(self, job, *details)
        if job.task.source.startswith("sub-03"):
            (place.data / job.task.source).unlink()

    patch.setattr(L2SWorker, "_run_in_process", run_and_take_away)
    return "is not there"


def odd_page(patch, _):
    """Let the page of a participant fail in a way that nobody thought of."""
    write = report.report_participant

    def write_or_fail(*, participant, **details):
        if participant == "sub-03":
            raise ValueError("odd page data")
        return write(participant=participant, **details)

    patch.setattr(report, "report_participant", write_or_fail)
    return "odd page data"


@pytest.mark.parametrize("happens", [taken_away, odd_page])
def test_what_befalls_one_participant_at_the_end(place, command_line, monkeypatch, happens):
    why = happens(monkeypatch, place)
    few = ("--participant-label", "03", "04")
    assert main(command_line(*place.all, *few, *ALONE)) == 1
    (table,) = place.output.glob("logs/*/images.tsv")
    rows = [row.split("\t") for row in table.read_text().splitlines()[1:]]
    assert [(row[1], row[2]) for row in rows] == [("sub-03", "failed"), ("sub-04", "done")]
    assert why in rows[0][4]
    assert (place.output / "dataset_description.json").is_file()
    assert place.is_whole("04")


def snapshot(folder):
    """All that a file system says of files and folders, but for when they were read."""
    said = {}
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        said[path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return said


@pytest.fixture
def read_only(place):
    """Start of a command line that sees the data set on a read-only mount."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mount, str(place.data)]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        return []
    refused = subprocess.run(
        [*prefix, "touch", str(place.data / "x")], check=False, capture_output=True
    )
    assert refused.returncode
    return prefix


def test_runs_at_the_same_time_from_a_read_only_mount(
    place, app, command_line, environment, read_only, tmp_path
):
    """Different participants, and one that both segment; from files that come from the future."""
    future = time.time() + 1e6
    for path in place.data.rglob("*.nii.gz"):
        os.utime(path, (future, future))
    for path in sorted(place.data.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    before = snapshot(place.data)
    processes = []
    for number, who in enumerate((("02", "04"), ("03", "04"))):
        work = place.work.with_name(f"work {number}")
        arguments = command_line(
            place.data, place.output, work, *place.arguments, "--participant-label", *who, *ALONE
        )
        processes.append(
            subprocess.Popen(
                [*read_only, sys.executable, "-m", "l2s_pydra.workflows.cli", *arguments],
                env=environment,
                cwd=tmp_path,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    assert snapshot(place.data) == before
    assert place.is_whole("02", "03", "04")
    assert len(list((place.output / "logs").glob("*/images.tsv"))) == 2
    # Neither working directory is needed to know that all is done.
    run = app(*place.all, "--participant-label", "02", "03", "04")
    assert run.code == 0, run.said
    last(run, "3 image(s): 0 done, 0 restored, 3 reused, 0 failed, 0 skipped")
    assert place.is_whole("02", "03", "04")
