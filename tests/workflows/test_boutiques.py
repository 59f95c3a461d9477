"""The descriptor of the command line."""

import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from l2s_pydra.workflows.arguments import build_parser
from l2s_pydra.workflows.boutiques import descriptor, to_json
from l2s_pydra.workflows.cli import main, parse
from l2s_pydra.workflows.exit_codes import ExitCode

COMMITTED = Path(__file__).parents[2] / "containers" / "boutiques.json"


def bosh(*arguments):
    code = "import sys; from boutiques.bosh import bosh; sys.argv[0] = 'bosh'; sys.exit(bosh())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_is_printed(capsys):
    assert main(["--bids-exec-spec"]) == 0
    assert json.loads(capsys.readouterr().out) == descriptor(build_parser())


def test_the_committed_copy_is_in_step():
    """If not: ``l2s-pydra --bids-exec-spec > containers/boutiques.json``."""
    assert COMMITTED.read_text(encoding="utf-8") == to_json(build_parser())


def test_every_option_is_in_it():
    flags = {i.get("command-line-flag") for i in json.loads(COMMITTED.read_text())["inputs"]}
    options = [action.option_strings for action in build_parser()._actions]
    missing = [names for names in options if names and not flags & set(names)]
    others = [["--bids-exec-spec"], ["--demo"], ["--verify"], ["--version"], ["-h", "--help"]]
    assert sorted(missing) == others


def test_it_tells_the_exit_codes():
    codes = {entry["code"] for entry in descriptor(build_parser())["error-codes"]}
    assert codes == set(ExitCode) - {0}


def test_boutiques_accepts_it():
    done = bosh("validate", COMMITTED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "OK"


def test_a_command_line_made_from_it_is_understood(phantom, tmp_path):
    """Boutiques writes the command line of an invocation; ours reads it."""
    (tmp_path / "filters.json").write_text("{}")
    values = {
        "bids_dir": str(phantom),
        "output_dir": str(tmp_path / "out"),
        "level": ["participant", "group"],
        "participant_label": ["01", "02"],
        "bids_filter_file": str(tmp_path / "filters.json"),
        "probseg": True,
        "no_flip": True,
        "nprocs": 3,
        "spacing_mm": 2.5,
        "mem": "16GB",
        "mode": "synthseg",
        "work_dir": str(tmp_path / "work"),
    }
    invocation = tmp_path / "invocation.json"
    invocation.write_text(json.dumps(values))
    done = bosh("exec", "simulate", "-i", invocation, COMMITTED)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("l2s-pydra"))
    options = parse(line.split()[1:])
    asked = parse(
        [
            *(str(phantom), str(tmp_path / "out"), "participant", "group"),
            *("--participant-label", "01", "02", "--probseg", "--no-flip", "--nprocs", "3"),
            *("--bids-filter-file", str(tmp_path / "filters.json"), "--mem", "16GB"),
            *("--mode", "synthseg", "--spacing-mm", "2.5", "-w", str(tmp_path / "work")),
        ]
    )
    assert attrs.evolve(options, command=()) == attrs.evolve(asked, command=())


@pytest.mark.parametrize("wrong", [{"level": ["meta"]}, {"nprocs": 0}, {"mode": "magic"}])
def test_boutiques_refuses_what_we_refuse(phantom, tmp_path, wrong):
    values = {"bids_dir": str(phantom), "output_dir": "out", "level": ["participant"], **wrong}
    (tmp_path / "invocation.json").write_text(json.dumps(values))
    assert bosh("invocation", "-i", tmp_path / "invocation.json", COMMITTED).returncode != 0
