"""What is installed is what is here."""

import tomllib
from importlib import metadata
from pathlib import Path

import l2s_pydra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_folder_is_packaged():
    inside = {path.parent for path in (ROOT / "l2s_pydra").rglob("__init__.py")}
    packages = {path.relative_to(ROOT).as_posix().replace("/", ".") for path in inside}
    packages |= {"l2s_pydra.workflows", "l2s_pydra.bids_examples", "pydra.tasks.l2s"}
    packages |= {"pydra.workers"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_mapped_folders_exist():
    for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items():
        # Others have modules in pydra.workers too: an __init__.py would hide them.
        assert (ROOT / folder / "__init__.py").is_file() == (package != "pydra.workers")


def test_one_version():
    assert PROJECT["project"]["version"] == l2s_pydra.__version__
    assert metadata.version("l2s_pydra") == l2s_pydra.__version__


def test_the_command_exists():
    (script,) = metadata.entry_points(group="console_scripts", name="l2s-pydra")
    assert callable(script.load())
