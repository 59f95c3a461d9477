"""The command line as a Boutiques descriptor, for platforms that build forms and jobs from it.

Everything in it is taken from the parser, the table of outputs and that of exit codes.
"""

import argparse
import json
import re
from typing import Any

from l2s_pydra import __version__

from .argument_types import existing_file, positive
from .exit_codes import MEANINGS, ExitCode
from .options import LEVELS

__all__ = ["SPECIFICATION", "descriptor", "to_json"]

SPECIFICATION = "0.1.0"
"""Version of the BIDS execution specification."""
_SCHEMA = "0.5"
_LEFT_OUT = ("help", "version", "verify", "demo", "bids_exec_spec")
"""Actions that run nothing on a data set."""
_OUTPUTS = (
    ("dataset_description", "Description of the derivative", "dataset_description.json", False),
    ("segmentations", "Outputs of each participant", "sub-*", True),
    ("participant_pages", "Reports of participants", "sub-*.html", True),
    ("models", "Models that were trained", "models/model-*", True),
    ("volumes", "Volumes of everyone", "seg-*_morph.tsv", True),
    ("overlap", "Overlap with references", "seg-*_dice.tsv", True),
    ("group_page", "Report of the group", "group.html", True),
    ("methods", "Methods text", "logs/CITATION.md", True),
)


def descriptor(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Describe a parser of this software.

    Parameters
    ----------
    parser : ArgumentParser
        As :func:`~l2s_pydra.workflows.arguments.build_parser` makes it.

    Returns
    -------
    dict
        Boutiques descriptor, schema 0.5.
    """
    actions = [action for action in parser._actions if action.dest not in _LEFT_OUT]
    inputs = [_input(action) for action in actions]
    return {
        "name": "l2s_pydra",
        "description": "Learn2Synth: learn to segment brain images from a few labelled ones, "
        "segment, and compare; a BIDS App",
        "tool-version": __version__,
        "schema-version": _SCHEMA,
        "command-line": " ".join(["l2s-pydra", *(i["value-key"] for i in inputs)]),
        "inputs": inputs,
        "groups": _groups(parser),
        "output-files": [
            {
                "id": name,
                "name": title,
                "path-template": f"[OUTPUT_DIR]/{path}",
                "optional": optional,
                **({"list": True} if "*" in path else {}),
            }
            for name, title, path, optional in _OUTPUTS
        ],
        "error-codes": [
            {"code": code.value, "description": meaning}
            for code, meaning in MEANINGS.items()
            if code is not ExitCode.OK
        ],
        "tags": {"domain": ["neuroinformatics", "bids", "mri"]},
        "suggested-resources": {"cpu-cores": 1, "ram": 4},
        "custom": {"BIDSAppSpecVersion": SPECIFICATION},
    }


def to_json(parser: argparse.ArgumentParser) -> str:
    """Descriptor as text."""
    return json.dumps(descriptor(parser), indent=2) + "\n"


def _input(action: argparse.Action) -> dict[str, Any]:
    name = _name(action)
    found: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " ").capitalize(),
        "type": _type(action),
        "description": _sentence(action),
        "value-key": f"[{name.upper()}]",
        "optional": bool(action.option_strings),
    }
    if action.option_strings:
        found["command-line-flag"] = _flag(action)
    if action.nargs in ("+", "*"):
        found |= {"list": True, "min-list-entries": 1 if action.nargs == "+" else 0}
    choices = LEVELS if action.dest == "level" else action.choices
    if choices is not None:
        found["value-choices"] = list(choices)
    if action.type in (int, positive):
        found["integer"] = True
    if action.type is positive:
        found["minimum"] = 1
    return found


def _name(action: argparse.Action) -> str:
    return _flag(action).lstrip("-").replace("-", "_") if action.option_strings else action.dest


def _flag(action: argparse.Action) -> str:
    return next(name for name in action.option_strings if name.startswith("--"))


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "Flag"
    if action.type in (int, float, positive):
        return "Number"
    # What is made if it is missing is text: a file is looked for before the run.
    return "File" if action.type is existing_file or action.dest == "bids_dir" else "String"


def _sentence(action: argparse.Action) -> str:
    text = (action.help or action.dest).replace("%%", "%")
    return text[0].upper() + text[1:]


def _groups(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    groups = []
    for group in parser._action_groups:
        members = [_name(action) for action in group._group_actions if action.dest not in _LEFT_OUT]
        title = str(group.title)
        if members:
            groups.append(
                {
                    "id": re.sub("[^a-z]+", "_", title.lower()),
                    "name": title[0].upper() + title[1:],
                    "members": members,
                }
            )
    return groups
