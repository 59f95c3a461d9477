"""``pydra.tasks.l2s`` and our workers' names, as installed: from a wheel and from an editable folder."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from l2s_pydra import tasks

ROOT = Path(__file__).parents[2]
SHOW = """
import pydra.tasks, pydra.tasks.l2s as l2s
print(l2s.__file__)
print(*sorted(l2s.__all__))
print(l2s.Segment.__module__)
print(pydra.tasks.__file__)
import pydra.tasks.common
import pydra.engine.submitter
from pydra.workers.base import Worker
print(*sorted(Worker.available_plugins()))
"""


def pip(*arguments):
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--no-build-isolation", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def sources(tmp_path):
    """Copy of the sources, as building leaves files beside them."""
    copy = tmp_path / "sources"
    kept = ("l2s_pydra", "workflows", "bids_examples", "pydra_tasks", "pydra_workers")
    for name in kept:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def seen_from(folder):
    """What an interpreter sees that has a folder and the libraries, but no editable installation."""
    libraries = [path for path in sys.path if Path(path).name.endswith("-packages")]
    start = f"import site, sys; site.addsitedir({str(folder)!r}); sys.path += {libraries!r}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", start + SHOW],
        env={**os.environ, "NO_ET": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("pip"), reason="builds with pip")
@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_pydra_finds_what_is_installed(sources, tmp_path, how):
    target = tmp_path / "site"
    if how == "wheel":
        pip("wheel", "--wheel-dir", str(tmp_path), str(sources))
        (wheel,) = tmp_path.glob("*.whl")
        zipfile.ZipFile(wheel).extractall(target)
        inside = {path.relative_to(target).as_posix() for path in target.rglob("__init__.py")}
        assert not inside & {"pydra/__init__.py", "pydra/tasks/__init__.py"}
    else:
        pip("install", "--target", str(target), "--editable", str(sources))
    file, names, module, namespace, workers = seen_from(target)
    assert Path(file).is_relative_to(target if how == "wheel" else sources)
    assert names.split() == sorted(tasks.__all__)
    assert module == "l2s_pydra.tasks.segment"
    assert namespace == "None"
    ours = {path.stem for path in (ROOT / "pydra_workers").glob("*.py")}
    assert set(workers.split()) == {"cf", "debug", "sge", "slurm"} | ours
