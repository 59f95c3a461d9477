"""Settings of a training from the command line: preset or file, then options, then ``--set``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2s_pydra.config import LearnConfig, preset
from l2s_pydra.jsonfiles import read_json

from .argument_types import UsageError, absolute

__all__ = ["learn_config"]

_SLOPPY = {
    "spacing_mm": 4.0,
    "segmenter__width": 4,
    "segmenter__depth": 3,
    "training__steps": 20,
    "training__validate_every": 10,
    "training__checkpoint_every": 10,
    "training__theta_warmup_steps": 5,
}
"""What ``--sloppy`` makes of the preset ``quick``: a minute on one CPU, and a useless model."""


def learn_config(values: Mapping[str, Any], base: LearnConfig | None = None) -> LearnConfig:
    """Put the settings of a training together.

    Parameters
    ----------
    values : mapping
        What was given, by the names in :data:`~l2s_pydra.workflows.arguments_learning.SETTINGS`.
    base : LearnConfig, optional
        Settings to start from where no preset and no file is given.

    Raises
    ------
    UsageError
        If a setting is unknown.
    ConfigError
        If a value is out of range.
    """
    ndim = values.get("ndim")
    config = _start(values, base, ndim)
    options = {
        "spacing_mm": values.get("spacing_mm"),
        "training__mode": values.get("mode"),
        "training__steps": values.get("steps"),
        "training__seed": values.get("random_seed"),
        "training__max_minutes": values.get("max_time"),
        "training__patience": values.get("patience"),
    }
    changes = {name: value for name, value in options.items() if value is not None}
    if values.get("augmentation") not in (None, config.augmentation.name):
        changes["augmentation"] = {"name": values["augmentation"]}
    config = config.evolve(**changes)
    return config.evolve(**dict(_setting(text, config) for text in values.get("set") or ()))


def _start(values: Mapping[str, Any], base: LearnConfig | None, ndim: int | None) -> LearnConfig:
    if values.get("config") is not None:
        base = LearnConfig.read(values["config"])
    elif values.get("preset") is not None or (base is None and not values.get("sloppy")):
        return _sloppy(preset(values.get("preset") or "default", ndim=ndim), values)
    elif base is None:
        return _sloppy(preset("quick", ndim=ndim), values)
    base = base.evolve(segmenter__ndim=ndim) if ndim else base
    return _sloppy(base, values)


def _sloppy(config: LearnConfig, values: Mapping[str, Any]) -> LearnConfig:
    return config.evolve(**_SLOPPY) if values.get("sloppy") else config


def _setting(text: str, config: LearnConfig) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    section, _, field = name.rpartition(".")
    everything = config.to_dict()
    known: Any = everything.get(section) if section else everything
    if not equals or not isinstance(known, dict) or field not in known:
        sections = sorted(k for k, v in everything.items() if isinstance(v, dict))
        available = sorted(known) if isinstance(known, dict) else sections
        raise UsageError(
            f"--set {text}: expected SECTION.NAME=VALUE; "
            f"available{f' in {section}' if isinstance(known, dict) and section else ''}: "
            f"{', '.join(available)}"
        )
    key = f"{section}__{field}" if section else field
    if value.startswith("@"):
        return key, _json_of(absolute(value[1:]), text)
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = value
    return key, parsed


def _json_of(path: Path, text: str) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--set {text}: {path} cannot be read as JSON ({error})") from error
