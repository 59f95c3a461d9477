"""The command line ``l2s-pydra``.

Nothing that takes long to import is imported here; ``--help`` and ``--version`` are instant.
"""

import os
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import L2SError

from .argument_types import UsageError, absolute
from .arguments import build_demo_parser, build_verify_parser, typed
from .arguments_workers import chosen_worker
from .checking import (
    check_comparison,
    check_labels,
    check_places,
    check_what_is_done,
    levels,
    output_dir,
    resolve_data,
)
from .container import container_of
from .exit_codes import ExitCode
from .learn_settings import learn_config
from .options import LEVELS, Options

__all__ = ["UsageError", "demo_arguments", "main", "parse", "recorded"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program; those of the process by default.

    Returns
    -------
    int
        Exit code of the BIDS execution specification.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        if "--verify" in argv:
            return _verify(argv)
        options = parse(argv)
    except SystemExit as done:  # --help, --version
        return int(done.code or ExitCode.OK)
    except L2SError as error:
        sys.stderr.write(f"l2s-pydra: {error}\n")
        return int(getattr(error, "code", ExitCode.USAGE))
    from .bids_app import run

    return run(options)


def _verify(argv: Sequence[str]) -> int:
    """Check a finished tree; nothing is run, and nothing written."""
    arguments = build_verify_parser().parse_args(argv)
    *before, output_dir = arguments.places[:2]
    from .verification import report_verification

    return report_verification(output_dir, before[0] if before else None, sys.stdout.write)


def demo_arguments(output_dir: str | Path) -> list[str]:
    """Arguments that learn, segment and compare on a data set that ships with the software.

    Parameters
    ----------
    output_dir : path
        Where the derivative goes.

    Returns
    -------
    list of str
        To be continued with further options, which win.
    """
    from l2s_pydra.bids_examples import path

    data = path("icbm")
    derivatives = data / "derivatives"
    arguments = [str(data), str(output_dir), *LEVELS, "--preset", "quick"]
    # A coarser grid and fewer steps than the preset: minutes, for a first look.
    arguments += ["--spacing-mm", "3", "--steps", "900", "--set", "training.validate_every=150"]
    arguments += ["--real-labels", str(derivatives / "reference")]
    arguments += ["--label-maps", str(derivatives / "labelmaps")]
    return arguments


def parse(argv: Sequence[str]) -> Options:
    """Understand the command line.

    Parameters
    ----------
    argv : sequence of str
        Arguments without the program.

    Raises
    ------
    UsageError
        If an argument is unknown, missing or out of place; its ``code`` is the exit code.
    ConfigError
        If a setting of the training is unknown or out of range.
    SystemExit
        After ``--help`` and ``--version``.
    """
    argv = list(argv)
    demo, rest = build_demo_parser().parse_known_args(argv)
    if demo.demo is not None:
        argv = demo_arguments(demo.demo) + rest
    if not argv:
        raise UsageError("nothing to do; see l2s-pydra --help, or try l2s-pydra --demo OUTPUT_DIR")
    given, defaults = typed(argv)
    from_file, config = _from_file(given)
    values = {**defaults, **from_file, **given}
    values["output_dir"] = output_dir(values)
    check_places(values["bids_dir"], values["output_dir"], values["work_dir"])
    check_what_is_done(values)
    check_comparison(values, {**from_file, **given})
    values |= chosen_worker(values, {**from_file, **given})
    values["derivatives"] = values["derivatives"] or {}
    values |= resolve_data(values)
    values["levels"] = levels(values)
    values["config"] = learn_config(given, base=config)
    check_labels(values, values["config"].training.mode)
    if values["low_mem"]:
        values["config"] = values["config"].evolve(training__checkpoint_activations=True)
    if values["debug"]:
        values["verbosity"] = 2
    values["compare"] = tuple(dict.fromkeys(values["compare"]))
    values["model"], values["start_from"] = map(_found, (values["model"], values["start_from"]))
    values["command"] = ("l2s-pydra", *recorded(argv, values))
    values["container"] = container_of(os.environ)
    return Options(**_fields(values))


def recorded(argv: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Arguments with whole paths in place of relative ones.

    What records show of a path is what lies below the folders of a run
    (:func:`l2s_pydra.bids.provenance.scrub`); of a relative one nobody could tell.

    Parameters
    ----------
    argv : sequence of str
        Arguments as they were given.
    values : mapping
        Their values; paths among them may not exist yet.
    """
    places = {value for value in values.values() if isinstance(value, Path)}
    return [_with_whole_path(text, places) for text in argv]


def _with_whole_path(text: str, places: Container[Path]) -> str:
    before, equals, rest = text.rpartition("=")
    at = "@" if rest.startswith("@") else ""
    path = rest.removeprefix(at)
    if os.sep not in path and path not in (".", ".."):
        return text
    whole = absolute(path)
    if path[0] in ".~" or whole in places or whole.exists():
        return f"{before}{equals}{at}{whole}"
    return text


def _found(folder: str | None) -> str | None:
    """Whole path of a model that is given by its folder rather than by its name."""
    return str(absolute(folder)) if folder and absolute(folder).is_dir() else folder


def _from_file(given: Mapping[str, Any]) -> tuple[dict[str, Any], LearnConfig | None]:
    """Options of ``--config-file``, if there is one."""
    if "config_file" not in given:
        return {}, None
    from .config_file import read_config_file

    return read_config_file(given["config_file"], given)


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the fields of :class:`Options`; the others decided these."""
    names = {field.name for field in attrs.fields(Options)}
    return {name: value for name, value in values.items() if name in names}


if __name__ == "__main__":
    sys.exit(main())
