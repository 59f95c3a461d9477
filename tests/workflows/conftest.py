"""Runs of the application on the phantom data set, with settings that learn next to nothing."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from l2s_pydra import bids_examples

TINY = (
    *("--steps", "4", "--spacing-mm", "4", "--set", "segmenter.width=2"),
    *("--set", "training.validate_every=2", "--set", "training.theta_warmup_steps=1"),
)


@attrs.frozen
class Run:
    """A finished run."""

    output: Path
    work: Path
    code: int
    said: str
    printed: str = ""


def command(data, output, work, *arguments):
    """Command line that calls the application as a user would, with the labels that there are."""
    given = {"--real-labels": "reference", "--label-maps": "labelmaps"}
    places = {option: data / "derivatives" / name for option, name in given.items()}
    return [
        *(sys.executable, "-m", "l2s_pydra.workflows.cli", str(data), str(output), *arguments),
        *(word for item in places.items() if item[1].is_dir() for word in map(str, item)),
        *("--work-dir", str(work), "--omp-nthreads", "1"),
        *(() if "--nprocs" in arguments else ("--nprocs", "2")),
        *TINY,
    ]


@pytest.fixture(scope="session")
def command_line():
    """Arguments of the application as :func:`command` gives them, without the program."""
    return lambda *arguments: command(*arguments)[3:]


@pytest.fixture(scope="session")
def phantom():
    return bids_examples.path("phantom")


@pytest.fixture
def data(phantom, tmp_path):
    """Copy of the data set that a test may change."""
    copy = tmp_path / "data"
    shutil.copytree(phantom, copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    return copy


WATCH = """
import os, socket

def watch(what, original, host):
    def watched(*arguments, **options):
        if host(*arguments):
            with open(os.environ["WATCHED_SOCKETS"], "a") as file:
                print(what, arguments, file=file)
            raise OSError("tests have no network")
        return original(*arguments, **options)
    return watched

def is_network(self, *_):
    return self.family in (socket.AF_INET, socket.AF_INET6)

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, watch(name, getattr(socket.socket, name), is_network))
socket.getaddrinfo = watch("getaddrinfo", socket.getaddrinfo, lambda *_: True)
"""
"""Run by Python when it starts: network connections are written down, and fail."""


@pytest.fixture(scope="session")
def sockets(tmp_path_factory):
    """File that lists the network connections that runs of the application tried to make."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "sitecustomize.py").write_text(WATCH)
    return folder / "sockets.txt"


@pytest.fixture(scope="session")
def environment(tmp_path_factory, sockets):
    """Environment of a user with an empty home and without a network."""
    home = tmp_path_factory.mktemp("home")
    path = os.pathsep.join(filter(None, [str(sockets.parent), os.environ.get("PYTHONPATH")]))
    watched = {"PYTHONPATH": path, "WATCHED_SOCKETS": str(sockets)}
    asked = {k: v for k, v in os.environ.items() if k not in ("NO_ET", "NIPYPE_NO_ET")}
    return {**asked, **watched, "HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def app(environment, tmp_path_factory):
    """Run the application in a process of its own."""

    def run(line, output=None, work=None):
        done = subprocess.run(
            line,
            env=environment,
            cwd=tmp_path_factory.getbasetemp(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Run(output, work, done.returncode, done.stderr, done.stdout)

    def app(data, output, work, *arguments):
        return run(command(data, output, work, *arguments), output, work)

    # Without the arguments of a tiny training.
    app.plain = lambda *line: run([sys.executable, "-m", "l2s_pydra.workflows.cli", *line])
    return app


@pytest.fixture
def start(environment, start_in):
    """Start the application without waiting for it."""
    return lambda *arguments, **details: start_in(environment, *arguments, **details)


@pytest.fixture
def start_in(tmp_path):
    """Start the application in an environment."""

    def start_in(environment, data, output, work, *arguments, **details):
        return subprocess.Popen(
            command(data, output, work, *arguments),
            env=environment,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever runs the tests in the background may ignore it, and what it starts, too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **details,
        )

    return start_in


@pytest.fixture(scope="session")
def finished(app, phantom, tmp_path_factory):
    """All three levels on the whole data set; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    run = app(phantom, folder / "l2s_pydra", folder / "work", "learn", "participant", "group")
    assert run.code == 0, run.said
    return run


@pytest.fixture
def copied(finished, tmp_path):
    """Copy of the finished run that a test may change; Pydra's cache included."""
    output, work = tmp_path / "l2s_pydra", tmp_path / "work"
    shutil.copytree(finished.output, output, symlinks=True)
    shutil.copytree(finished.work, work, symlinks=True)
    return Run(output, work, 0, "")


@pytest.fixture(scope="session")
def model(finished):
    (folder,) = (finished.output / "models").iterdir()
    return folder
