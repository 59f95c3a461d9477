"""Options from a TOML file: one's own, or the record that an earlier run left."""

import argparse
import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import ConfigError

from .argument_types import UsageError, absolute, existing_file, named_folder
from .arguments import build_parser, typed
from .arguments_learning import SETTINGS
from .learn_settings import learn_config

__all__ = ["read_config_file"]

_POSITIONAL = ("bids_dir", "output_dir", "level", "levels")
_OF_THE_RUN = {*_POSITIONAL, "work_dir", "command", "verbosity"}
"""What a record tells of its run, and the next one decides anew."""
_NOT_IN_FILES = {"help", "version", "demo", "config_file", "bids_exec_spec"}
_USED_BY = {
    "real_labels": {"learn", "group"},
    "references": {"group"},
    "label_maps": {"learn"},
    "label_mapping": {"learn"},
    "target_labels": {"learn"},
}
"""Levels without which a file or folder is not looked for."""
_DATA = ("real_labels", "label_maps", "references")
_START = ("preset", "config", "ndim", "sloppy")


def read_config_file(
    file: Path, given: Mapping[str, Any]
) -> tuple[dict[str, Any], LearnConfig | None]:
    """Read options from a file.

    Keys are the names of options (``participant-label`` or ``participant_label``), or those of
    :class:`~l2s_pydra.workflows.options.Options`, as in the record of a run. ``<bids_dir>``,
    ``<output_dir>`` and ``<work_dir>`` stand for the folders of the command line.

    Parameters
    ----------
    file : Path
        The file.
    given : mapping
        What the command line says, which wins.

    Returns
    -------
    values : dict
        By the name of the value; without those that the command line gives.
    config : LearnConfig or None
        Settings of a training; None if the file says nothing of them.

    Raises
    ------
    UsageError
        If it cannot be read, a key is unknown, or a value is none of the option.
    """
    return _File.read(file, given).values()


@attrs.frozen
class _File:
    path: Path
    entries: Mapping[str, Any]
    is_record: bool
    given: Mapping[str, Any]
    actions: Mapping[str, argparse.Action]

    @classmethod
    def read(cls, path: Path, given: Mapping[str, Any]) -> "_File":
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read as TOML ({error}); correct it") from error
        is_record = isinstance(content.get("settings"), dict) and "run" in content
        entries = content["settings"] if is_record else content
        if is_record:
            entries = _of_record(entries)
        actions: dict[str, argparse.Action] = {}
        for action in build_parser()._actions:
            if action.dest not in (*_POSITIONAL, *_NOT_IN_FILES):
                long = [name[2:] for name in action.option_strings if name.startswith("--")]
                # Of two options of one value, the first has the unit of the value.
                actions |= dict.fromkeys(long, action) | {
                    action.dest: actions.get(action.dest, action)
                }
        return cls(path, entries, is_record, given, actions)

    def values(self) -> tuple[dict[str, Any], LearnConfig | None]:
        table = self.entries.get("config")
        words: list[str] = []
        for key, value in self.entries.items():
            action = self._action(key)
            if isinstance(value, Mapping) and action.dest == "config":
                continue
            if action.dest not in self.given or action.dest in SETTINGS:
                words += self._words(key, action, self._resolved(value))
        places = [str(self.given[name]) for name in ("bids_dir", "output_dir")]
        try:
            values, _ = typed([*places, *self.given["level"], *words])
            config = self._config(values, table if isinstance(table, Mapping) else None)
        except ConfigError as error:
            raise UsageError(f"{self.path}: {error}") from error
        left = (*SETTINGS, *_POSITIONAL)
        return {name: value for name, value in values.items() if name not in left}, config

    def _action(self, key: str) -> argparse.Action:
        if key in self.actions:
            return self.actions[key]
        plain = key.replace("_", "-")
        if plain in self.actions:
            return self.actions[plain]
        if key.replace("-", "_") in _POSITIONAL:
            raise UsageError(f"{self.path}: {key} is given on the command line; take it out")
        near = difflib.get_close_matches(plain, self.actions, n=1)
        meant = f"did you mean {near[0]}?" if near else "keys are the names of options"
        raise UsageError(f"{self.path}: unknown key {key!r}; {meant}")

    def _resolved(self, value: Any) -> Any:
        """Value with the folders of this run in place of the words that stand for them."""
        if isinstance(value, Mapping):
            return {name: self._resolved(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._resolved(item) for item in value]
        if isinstance(value, str):
            for name in ("bids_dir", "output_dir", "work_dir"):
                if name in self.given:
                    value = value.replace(f"<{name}>", str(self.given[name]))
        return value

    def _words(self, key: str, action: argparse.Action, value: Any) -> Iterator[str]:
        """Write an entry as it would be typed."""
        names = [name for name in action.option_strings if name.startswith("--")]
        option = next((name for name in names if name == f"--{key.replace('_', '-')}"), names[0])
        if action.nargs == 0:
            yield from self._flag(key, action, option, value)
            return
        if isinstance(value, Mapping) and action.dest == "derivatives":
            value = [f"{name}={folder}" for name, folder in value.items()]
        if isinstance(value, Mapping) and action.dest == "worker_args":
            value = [json.dumps(value)]
        several = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool | dict | list) for item in several):
            raise UsageError(f"{self.path}: {key} = {value!r}: expected text or a number")
        texts = [str(item) for item in several]
        if self.is_record and not all(self._is_there(action, text) for text in texts):
            if action.dest == "database_dir" or not self._is_used(action.dest):
                return
            raise UsageError(
                f"{self.path}: {key} was {', '.join(texts)}, outside of the data sets, and a record "
                f"does not say where that is; give it by {option}"
            )
        if action.nargs in ("+", "*"):
            yield from (option, *texts) if texts or action.nargs == "*" else ()
        elif isinstance(value, list) and not isinstance(action, argparse._AppendAction):
            raise UsageError(f"{self.path}: {key} = {value!r}: expected one value")
        else:
            yield from (f"{option}={text}" for text in texts)

    def _flag(self, key: str, action: argparse.Action, option: str, value: Any) -> Iterator[str]:
        if isinstance(action, argparse._CountAction) and isinstance(value, int):
            yield from [option] * int(value)
        elif not isinstance(value, bool):
            raise UsageError(f"{self.path}: {key} = {value!r}: expected true or false")
        # flip = false and no-flip = true are the same.
        elif value != (isinstance(action, argparse._StoreFalseAction) and key == action.dest):
            yield option

    def _is_there(self, action: argparse.Action, text: str) -> bool:
        if action.type is named_folder:
            text = text.partition("=")[2]
        elif not (action.type in (existing_file, absolute) or action.dest in _DATA):
            return True
        return absolute(text).exists()

    def _is_used(self, name: str) -> bool:
        return bool(_USED_BY.get(name, {*self.given["level"]}) & {*self.given["level"]})

    def _config(self, values: Mapping[str, Any], table: Any) -> LearnConfig | None:
        settings = {name: values[name] for name in SETTINGS if name in values}
        if table is None and not settings:
            return None
        if table is not None and self.is_record:
            return learn_config(settings, base=LearnConfig.from_dict(_with_none(table)))
        config = learn_config({name: settings.pop(name) for name in _START if name in settings})
        return learn_config(settings, base=config.evolve(**_flat(table or {})))


def _of_record(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a record: without what is of its run, and what says nothing by itself."""
    left = set(_OF_THE_RUN)
    if not entries.get("compare"):
        left |= {"compare", "seeds", "folds", "compare_suffixes"}
    return {key: value for key, value in entries.items() if key not in left}


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Spell settings as :meth:`LearnConfig.evolve` takes them.

    >>> _flat({"spacing_mm": 2, "training": {"steps": 3}})
    {'spacing_mm': 2, 'training__steps': 3}
    """
    flat: dict[str, Any] = {}
    for section, value in table.items():
        if isinstance(value, Mapping):
            flat |= {f"{section}__{name}": item for name, item in value.items()}
        else:
            flat[section] = value
    return flat


def _with_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in settings without a value, which a record leaves out: TOML has no word for it."""
    defaults = LearnConfig()
    full: dict[str, Any] = {**table}
    for section in attrs.fields(LearnConfig):
        part = getattr(defaults, section.name)
        if attrs.has(type(part)) and isinstance(table.get(section.name), Mapping):
            optional = {
                field.name: None
                for field in attrs.fields(type(part))
                if re.search(r"\bNone\b", str(field.type))
            }
            full[section.name] = {**optional, **table[section.name]}
    return full
