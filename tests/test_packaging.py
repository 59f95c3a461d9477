"""What is installed is what is here."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement

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


def test_the_citation_is_complete():
    """Keys that the Citation File Format 1.2.0 demands, and the version that is cited."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"message", "title", "type"} <= set(citation)
    for entry in (citation, citation["preferred-citation"], *citation["references"]):
        assert entry["title"]
        assert entry["type"]
        for author in entry["authors"]:
            assert {"name"} <= set(author) or {"family-names", "given-names"} <= set(author)
    assert "arXiv:2411.16719" in str(citation["preferred-citation"]["identifiers"])


def test_what_is_pinned_fits_what_is_asked_for():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pinned = dict(line.split("==") for line in lines)
    extras = PROJECT["project"]["optional-dependencies"].values()
    for line in (*PROJECT["project"]["dependencies"], *(r for extra in extras for r in extra)):
        wanted = Requirement(line)
        name = {re.sub(r"[-_.]+", "-", key).lower(): key for key in pinned}
        if wanted.name != "l2s_pydra":
            key = name[re.sub(r"[-_.]+", "-", wanted.name).lower()]
            assert wanted.specifier.contains(pinned[key], prereleases=True), line
