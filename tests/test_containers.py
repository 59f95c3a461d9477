"""Recipes of containers: what they install, as whom they run, and that both say the same."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import l2s_pydra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CPU = "https://download.pytorch.org/whl/cpu"


def lines(path):
    """Lines of a recipe without comments, those that are continued put together."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / path).read_text(encoding="utf-8"))
    return [line for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines() if line.strip()]


@pytest.fixture(scope="module")
def docker():
    """Instructions of the Dockerfile: keyword and the rest."""
    return [tuple(line.split(maxsplit=1)) for line in lines("containers/Dockerfile")]


@pytest.fixture(scope="module")
def apptainer():
    """Sections of the definition file: name and lines."""
    sections, name = {"": []}, ""
    for line in lines("containers/l2s_pydra.def"):
        if line.startswith("%"):
            name = line.strip().removeprefix("%")
            sections[name] = []
        else:
            sections[name].append(line.strip())
    return sections


def commands(docker, apptainer):
    """Shell commands of each recipe."""
    runs = [rest for word, rest in docker if word == "RUN"]
    return {
        "Dockerfile": [part.strip() for run in runs for part in run.split("&&")],
        "l2s_pydra.def": apptainer["post"],
    }


def given(assignments):
    """Variables as a dictionary, of ``A=1 B=2``."""
    pairs = (word.partition("=") for text in assignments for word in shlex.split(text))
    return {name: value for name, equals, value in pairs if equals}


@pytest.mark.parametrize("recipe", ["Dockerfile", "l2s_pydra.def"])
def test_what_is_installed_is_pinned(docker, apptainer, recipe):
    installs = [c for c in commands(docker, apptainer)[recipe] if "pip install" in c]
    assert [command.split()[-1] for command in installs] == ["torch", '"/src[validate]"']
    assert all("-c /src/constraints.txt" in command for command in installs)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"(?m)^torch==", pinned)
    assert re.search(r"(?m)^bids-validator-deno==", pinned)


def test_both_run_the_same_commands(docker, apptainer):
    def plain(commands):
        # Accounts are for Docker alone, and the variables of pip for RUN.
        left = (c for c in commands if not c.startswith(("/usr/sbin/useradd", "chmod", "export")))
        return [re.sub(r"\$\{(\w+)\}", r"{{ \1 }}", command) for command in left]

    one, other = commands(docker, apptainer).values()
    assert plain(one) == plain(other)


def test_both_start_from_the_same_dated_system(docker, apptainer):
    arguments = given(rest for word, rest in docker if word == "ARG")
    base = arguments["BASE"].removeprefix("docker.io/library/")
    assert re.fullmatch(r"debian:\w+-\d{8}-slim", base)
    assert apptainer[""] == ["Bootstrap: docker", f"From: {base}"]


def test_both_have_a_variant_for_cpus_and_one_for_gpus(docker, apptainer):
    arguments = given(rest for word, rest in docker if word == "ARG")
    theirs = given(apptainer["arguments"])
    assert theirs == {name: arguments[name] for name in ("TORCH_INDEX", "TAG")}
    assert theirs["TORCH_INDEX"] == CPU
    for recipe in ("Dockerfile", "l2s_pydra.def"):
        text = (ROOT / "containers" / recipe).read_text(encoding="utf-8")
        assert "--build-arg TORCH_INDEX=https://pypi.org/simple" in text


def test_the_version_is_that_of_the_package(docker, apptainer):
    version = l2s_pydra.__version__
    arguments = given(rest for word, rest in docker if word == "ARG")
    labels = given(rest for word, rest in docker if word == "LABEL")
    theirs = dict(line.split(maxsplit=1) for line in apptainer["labels"])
    assert labels == theirs
    assert labels["org.opencontainers.image.version"] == arguments["TAG"] == version
    written = [c for c in commands(docker, apptainer)["Dockerfile"] if c.endswith("> /version")]
    assert written == ['python -c "import l2s_pydra; print(l2s_pydra.__version__)" > /version']


def test_both_have_the_same_environment(docker, apptainer):
    ours = given(rest for word, rest in docker if word == "ENV")
    # Its words are quoted for a value with blanks.
    theirs = given(
        line.removeprefix("export ").replace("{{ TAG }}", "'{{ TAG }}'")
        for line in apptainer["environment"]
    )
    # Apptainer keeps the home of whoever runs it, and has --nv in place of NVIDIA's variables.
    only = {"HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
    assert only <= set(ours)
    assert ours.pop("L2S_PYDRA_CONTAINER_TYPE") == "docker"
    assert theirs.pop("L2S_PYDRA_CONTAINER_TYPE") == "apptainer"
    assert theirs == {
        name: value.replace("${TAG}", "{{ TAG }}")
        for name, value in ours.items()
        if name not in only
    }
    assert theirs["L2S_PYDRA_CONTAINER_TAG"] == "l2s_pydra:{{ TAG }}"


def test_it_does_not_run_as_root(docker, apptainer):
    words = [word for word, _ in docker]
    user = dict(docker)["USER"]
    assert user not in ("root", "0")
    assert words.index("USER") > max(n for n, word in enumerate(words) if word == "RUN")
    assert dict(docker)["ENTRYPOINT"] == '["l2s-pydra"]'
    assert apptainer["runscript"] == ['exec l2s-pydra "$@"']


def test_all_that_the_package_is_made_of_gets_in(docker, apptainer):
    tools = PROJECT["tool"]["setuptools"]
    needed = {"constraints.txt", "pyproject.toml", PROJECT["project"]["readme"], "l2s_pydra"}
    needed |= {Path(name).parts[0] for name in PROJECT["project"]["license-files"]}
    needed |= set(tools["package-dir"].values())
    ignored = lines(".dockerignore")
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == needed
    assert {line.split()[0] for line in apptainer["files"]} == needed
    assert all(line.split()[1] == f"/src/{line.split()[0]}" for line in apptainer["files"])
