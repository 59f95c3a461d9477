"""What an output was made from, by what, and with which settings.

Nothing here names a user, a computer or a folder outside the data sets.
"""

import json
import math
import platform
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from .. import __version__
from ..errors import DatasetError

__all__ = [
    "model_uri",
    "new_run_id",
    "now",
    "run_record",
    "scrub",
    "scrub_text",
    "sidecar",
    "started",
    "to_toml",
    "versions",
]

_PACKAGES = ("torch", "pydra", "nipype", "pybids", "nibabel", "numpy")
_COLUMNS = {
    "index": {"Description": "Value of the label in the segmentation"},
    "name": {"Description": "Name of the structure"},
    "volume-mm3": {
        "Description": "Number of voxels of the label times the volume of a voxel",
        "Units": "mm^3",
    },
    "soft-volume-mm3": {
        "Description": "Sum of the posterior probabilities of the label times the volume of a "
        "voxel, on the grid that the model works on",
        "Units": "mm^3",
    },
    "self-dice": {
        "Description": "Agreement of the posterior of the label with the label map made of it: "
        "2 sum(p m) / (sum p + sum m) over voxels, with the posterior p and m = 1 where the label "
        "is the most probable one. It tells how sure the model is, not how right"
    },
    "predicted-dice": {
        "Description": "Dice overlap with a manual segmentation that is to be expected: self-dice, "
        "calibrated on the validation images of the model"
    },
}


def sidecar(
    kind: str,
    *,
    source: str,
    entities: Mapping[str, str],
    model: Mapping[str, Any],
    dseg: str | None = None,
    labels: Sequence[str] = (),
    model_in_dataset: bool = True,
    resolution: str | None = None,
    source_sha256: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Contents of the JSON beside an output.

    Parameters
    ----------
    kind : {"dseg", "probseg", "entropy", "mask", "morph"}
        As in the column ``sidecar`` of the table of outputs.
    source : str
        Path of the image below the root of the raw data set, with ``/``.
    entities : mapping
        Entities and ``suffix`` of the image.
    model : mapping
        ``name``, ``version`` and ``sha256`` of the model.
    dseg : str, optional
        Path of the segmentation below the root of the derivative; for ``morph``.
    labels : sequence of str
        Names of the labels in the order of the volumes; for ``probseg``. For ``entropy``, what it
        is taken over.
    model_in_dataset : bool, default=True
        Whether the folder of the model lies in ``models`` of the derivative, so that a URI can
        point to it. One that is elsewhere is told by its name and checksum alone.
    resolution : str, optional
        What the ``res`` entity of the output means, if it has one.
    source_sha256 : str, optional
        Checksum of the image's file.
    details : mapping, optional
        Further fields.

    Raises
    ------
    DatasetError
        If the kind is unknown.
    """
    image = f"bids:raw:{source}"
    description = {
        "dseg": f"Discrete segmentation of the {entities['suffix']} image",
        "probseg": f"Posterior probability of each label in the {entities['suffix']} image",
        "entropy": f"Entropy of the posterior probabilities in the {entities['suffix']} image",
        "mask": f"All labels but the background in the {entities['suffix']} image",
        "morph": f"Volume of each label in the {entities['suffix']} image",
    }
    if kind not in description:
        raise DatasetError(
            f"sidecar {kind!r} is unknown; available: {', '.join(map(repr, description))}"
        )
    if kind == "morph":
        sources = [f"bids::{dseg}"] if dseg else [image]
        columns = {**_COLUMNS, **(details or {})}
        checked = {"SourceSHA256": source_sha256} if source_sha256 and not dseg else {}
        return {"Description": description[kind], "Sources": sources, **checked, **columns}
    values: dict[str, Any] = {
        "Description": description[kind],
        "Sources": [image, model_uri(model)] if model_in_dataset else [image],
        "SpatialReference": image,
        "Manual": False,
        **({"SourceSHA256": source_sha256} if source_sha256 else {}),
        "ModelName": str(model["name"]),
        "ModelVersion": str(model.get("version", "n/a")),
        "ModelSHA256": str(model["sha256"]),
        "SoftwareVersion": __version__,
    }
    if resolution or "res" in entities:  # REQUIRED with res (BIDS Derivatives, "Common data types")
        values["Resolution"] = resolution or "that of the source image"
    if kind == "probseg":
        values["LabelMap"] = list(labels)
    if kind == "entropy":
        values |= _entropy_facts(labels, interpolated=resolution is None)
    if kind == "mask":
        values["Type"] = "Brain"
    return values | dict(details or {})


def _entropy_facts(labels: Sequence[str], *, interpolated: bool) -> dict[str, Any]:
    """How the values of a map of entropy are to be read."""
    measure = "-sum(p ln p) / ln(K) over the posterior probabilities p of the K labels"
    if interpolated:
        measure += "; taken on the grid of the model, interpolated linearly to that of the image"
    return {
        "Measure": measure,
        "Range": [0, 1],
        "RangeMeaning": "0: one label is certain; 1: all labels are equally probable",
        "Labels": list(labels),
        "NatsPerUnit": round(math.log(max(2, len(labels))), 6),
    }


def model_uri(model: Mapping[str, Any]) -> str:
    """BIDS URI of the weights.

    >>> model_uri({"name": "learn2synth1a2b3c4d"})
    'bids:models:model-learn2synth1a2b3c4d/weights.safetensors'
    """
    return f"bids:models:model-{model['name']}/weights.safetensors"


def new_run_id() -> str:
    """Time (UTC) and a random UUID, which names the folder of a run's log."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}_{uuid.uuid4()}"


def started(run: str) -> str | None:
    """Time at which a run was named, ISO 8601; None if the name does not tell.

    >>> started("20260131-235959_cccb4441"), started("mine")
    ('2026-01-31T23:59:59Z', None)
    """
    try:
        return _time(datetime.strptime(run.partition("_")[0], "%Y%m%d-%H%M%S").replace(tzinfo=UTC))
    except ValueError:
        return None


def now() -> str:
    """Time, UTC, ISO 8601, as records have it."""
    return _time(datetime.now(UTC))


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def versions() -> dict[str, str]:
    """Versions of the software that decides results, without importing it."""
    found = {"l2s_pydra": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def run_record(
    *,
    run: str,
    command: Sequence[str],
    settings: Mapping[str, Any],
    seed: int | None = None,
    model: Mapping[str, Any] | None = None,
    container: Mapping[str, str] | None = None,
    places: Mapping[str, str | Path] | None = None,
) -> dict[str, Any]:
    """Describe a run, for ``l2s_pydra.toml``.

    Parameters
    ----------
    run : str
        Identifier of the run (:func:`new_run_id`).
    command : sequence of str
        Command line, program first.
    settings : mapping
        Everything that was decided: options, configuration.
    seed : int, optional
        Seed of everything random; None if nothing is.
    model : mapping, optional
        ``name``, ``version``, ``sha256`` and ``theta`` of the model that was used.
    container : mapping, optional
        ``Type``, ``Tag`` and ``URI`` of the container, if the software runs in one.
    places : mapping, optional
        Folders by the name that stands for them in the record, such as ``bids_dir``.

    Returns
    -------
    dict
        Plain values; paths outside ``places`` are reduced to their last part. Times are UTC: the
        run began when it was named, and its record is written when its results are there.
    """
    program, *arguments = command or ["l2s-pydra"]
    record: dict[str, Any] = {
        "run": {
            "id": run,
            "started": started(run),
            "ended": now(),
            "system": platform.system(),
            "seed": seed,
        },
        "software": versions(),
        "command": {"line": [PurePath(program).name, *scrub(arguments, places or {})]},
    }
    if model is not None:
        record["model"] = {key: model.get(key) for key in ("name", "version", "sha256")}
        if isinstance(model.get("theta"), Mapping):
            record["model"]["theta"] = dict(model["theta"])
    if container:
        record["container"] = dict(container)
    return record | {"settings": scrub(settings, places or {})}


def scrub(value: Any, places: Mapping[str, str | Path]) -> Any:
    """Replace absolute paths, and paths through a home folder, by what says nothing of the computer.

    Parameters
    ----------
    value : plain values, paths, and mappings and sequences of them
        What to clean.
    places : mapping
        Folders by name; a path inside becomes ``<name>/rest``. Other paths keep their last part.

    Examples
    --------
    >>> scrub(["/data/ds/sub-01", "--model=/home/someone/m", "a.b=@/tmp/c"], {"bids_dir": "/data/ds"})
    ['<bids_dir>/sub-01', '--model=m', 'a.b=@c']
    """
    if isinstance(value, Mapping):
        return {str(key): scrub(item, places) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub(item, places) for item in value]
    if isinstance(value, PurePath):
        return _scrub_path(str(value), places)
    if isinstance(value, str):
        option, equals, rest = value.rpartition("=")
        at = "@" if rest.startswith("@") else ""
        return option + equals + at + _scrub_path(rest.removeprefix(at), places)
    return value


def _scrub_path(text: str, places: Mapping[str, str | Path]) -> str:
    path = PurePath(text)
    of_somebody = re.match(r"~[^/]", text) is not None
    if not (path.is_absolute() or of_somebody or {"home", "Users"} & set(path.parts[:-1])):
        return text
    inside = [
        (len(PurePath(folder).parts), f"<{name}>", path.relative_to(folder))
        for name, folder in places.items()
        if path.is_relative_to(folder)
    ]
    if not inside:
        return "~" if of_somebody and len(path.parts) == 1 else path.name
    _, name, rest = max(inside)
    return name if rest == PurePath() else f"{name}/{rest.as_posix()}"


def scrub_text(text: str, places: Mapping[str, str | Path]) -> str:
    """Replace the folders of this computer in a message or a traceback.

    Parameters
    ----------
    text : str
        The text.
    places : mapping
        Folders by name; a path inside becomes ``<name>/rest``. Of other absolute paths, the part
        below the installed packages is kept, or their last part.

    Examples
    --------
    >>> scrub_text("/data/ds/sub-01: see 'https://a.b/c' or /usr/lib/x.so", {"bids_dir": "/data/ds"})
    "<bids_dir>/sub-01: see 'https://a.b/c' or x.so"
    """
    for name, folder in sorted(places.items(), key=lambda item: -len(str(item[1]))):
        text = re.sub(rf"{re.escape(str(folder))}(?![\w.-])", f"<{name}>", text)
    text = re.sub(r"""(["'])(/[^"'\n]+)\1""", lambda m: m[1] + _shortened(m[2]) + m[1], text)
    return re.sub(r"""(?<![\w<>./:~])/[^\s"':;,()<>|]+""", lambda m: _shortened(m[0]), text)


def _shortened(path: str) -> str:
    """Part of an absolute path that tells nothing of the computer."""
    parts = PurePath(path).parts
    if len(parts) < 3 or not Path(*parts[:2]).is_dir():
        return path  # a fraction, or a place in a data set
    for folder in ("site-packages", "dist-packages", "l2s_pydra", "workflows"):
        if folder in parts[:-1]:
            last = len(parts) - 1 - parts[::-1].index(folder)
            kept = parts[last + folder.endswith("packages") :]
            return PurePath(*kept).as_posix()
    return parts[-1]


def to_toml(values: Mapping[str, Any]) -> str:
    """Write nested mappings of plain values as TOML; None is left out.

    Examples
    --------
    >>> print(to_toml({"run": {"id": "x", "seed": 0, "note": None}}), end="")
    [run]
    id = "x"
    seed = 0
    """
    return "\n".join(_table(values, ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    plain = {key: v for key, v in values.items() if key not in tables and v is not None}
    lines = ["", f"[{'.'.join(map(_key, path))}]"] if path and (plain or not tables) else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, table in tables.items():
        lines += _table(table, (*path, key))
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"{value:f}"
    if isinstance(value, Mapping):
        pairs = (f"{_key(str(k))} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value if item is not None) + "]"
    return _string(str(value))


def _string(text: str) -> str:
    # JSON's escapes are TOML's, except that TOML wants DEL escaped as well (TOML 1.0, "String").
    # Bytes of a file name that are no UTF-8 arrive as lone surrogates, which no file can hold.
    valid = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(valid, ensure_ascii=False).replace("\x7f", "\\u007f")
