"""Provenance in the draft form of BIDS (BEP028, "BIDS-Prov"), as JSON-LD.

Nothing is recorded here that is not recorded elsewhere: files, checksums and what each image was made
from come from the manifests, times, versions and command lines from the records of runs, trainings
from the folders of models. The files can therefore be written anew at any time.

A participant has one file of activities and one of files, ``prov/prov-sub<label>_act.json`` and
``_ent.json``, so that segmenting one of ten thousand rewrites two small files, and runs on different
participants never write the same ones. Software and environment, which most runs share, are named by
a checksum of what they hold.

The draft foresees keys in sidecars as well. They are left out as long as it is a draft: sidecars hold
what the released standard knows. Each file brings its context, so that nothing is fetched to read it.

References
----------
https://github.com/bids-standard/bids-specification/pull/2099, W3C PROV-O (2013), JSON-LD 1.1 (2020).
"""

import hashlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from .manifest import ImageEntry, Manifest, manifest_of

__all__ = [
    "CONTEXT",
    "Run",
    "activity_id",
    "group_prov",
    "model_prov",
    "participant_prov",
    "prov_group",
]

CONTEXT: dict[str, Any] = {
    "@version": 1.1,
    # Terms of the BIDS glossary, which the draft extends.
    "@vocab": "https://bids-specification.readthedocs.io/en/stable/glossary.html#objects.metadata.",
    "prov": "http://www.w3.org/ns/prov#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    **dict.fromkeys(("Activities", "Files", "Datasets", "Software", "Environments"), "@included"),
    "Id": "@id",
    "Type": "@type",
    "Label": "rdfs:label",
    "Description": "rdfs:comment",
    "StartedAtTime": {"@id": "prov:startedAtTime", "@type": "xsd:dateTime"},
    "EndedAtTime": {"@id": "prov:endedAtTime", "@type": "xsd:dateTime"},
    "GeneratedBy": {"@id": "prov:wasGeneratedBy", "@type": "@id"},
    "AssociatedWith": {"@id": "prov:wasAssociatedWith", "@type": "@id"},
    "Used": {"@id": "prov:used", "@type": "@id"},
    "AtLocation": "prov:atLocation",
    "Digest": "@nest",
    "SHA-256": {
        "@id": "http://id.loc.gov/vocabulary/preservation/cryptographicHashFunctions/sha256",
        "@nest": "Digest",
    },
    **{key: {"@type": "@json"} for key in ("Parameters", "Dependencies", "Container")},
}
"""Meaning of the keys, embedded in each file; those of the draft have its names."""

_SEGMENT = ("flip", "test_time_draws", "keep_largest", "res", "probseg", "entropy")
_DATA = (".nii.gz", ".tsv")
Record = dict[str, Any]


@attrs.frozen(kw_only=True)
class Run:
    """What the record of a run says (:func:`l2s_pydra.bids.provenance.run_record`)."""

    values: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    """Contents of ``l2s_pydra.toml``; empty where it is lost."""

    @classmethod
    def read(cls, path: Path) -> "Run":
        """Read the record of a run; one that is lost or damaged says nothing."""
        try:
            return cls(values=tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return cls()

    def activity(self) -> Record:
        """Properties that activities of this run have in common."""
        about = self.values.get("run", {})
        line = self.values.get("command", {}).get("line")
        times = {"StartedAtTime": about.get("started"), "EndedAtTime": about.get("ended")}
        return {
            "Command": " ".join(map(_quoted, line)) if line else None,
            **({"AssociatedWith": [self.software["Id"]]} if self.values else {}),
            **{name: value for name, value in times.items() if value},
        }

    @property
    def software(self) -> Record:
        """The software, as it was in the run."""
        version = self.values.get("software", {}).get("l2s_pydra", "n/a")
        return {
            "Id": f"bids::prov#l2s_pydra-{_short(version)}",
            "Type": ["prov:Agent", "prov:SoftwareAgent"],
            "Label": "l2s_pydra",
            "Version": version,
        }

    @property
    def environment(self) -> Record:
        """What the run ran in; no computer and no person."""
        software = {k: v for k, v in self.values.get("software", {}).items() if k != "l2s_pydra"}
        system = self.values.get("run", {}).get("system", "n/a")
        container = self.values.get("container")
        named = {
            "OperatingSystem": system,
            "Dependencies": software,
            **({"Container": container} if container else {}),
        }
        label = container.get("Tag") or container.get("Type") if container else None
        return {
            "Id": f"bids::prov#environment-{_short(named)}",
            "Type": ["prov:Entity"],
            "Label": label or f"Python {software.get('python', 'n/a')} on {system}",
            **named,
        }

    def shared_files(self) -> dict[str, Record]:
        """Files of software and environment, by name; equal runs have equal ones."""
        if not self.values:
            return {}
        label = f"software{_short([self.software, self.environment])}"
        return {
            f"prov/prov-{label}_soft.json": _document("Software", [self.software]),
            f"prov/prov-{label}_env.json": _document("Environments", [self.environment]),
        }


def participant_prov(root: str | Path, participant: str) -> dict[str, Record]:
    """Provenance of a participant's segmentations.

    Parameters
    ----------
    root : path
        Root of the derivative.
    participant : str
        Such as ``sub-01``.

    Returns
    -------
    dict
        Contents of JSON files by their paths below the root; empty if nothing is recorded.

    Raises
    ------
    DatasetError
        If the manifest of the participant cannot be read.
    """
    root = Path(root)
    manifest = Manifest.read(root / manifest_of(f"{participant}/"))
    if not manifest.images:
        return {}
    names = sorted({entry.run for entry in manifest.images.values()})
    logs = root / participant / "log"
    runs = {name: Run.read(logs / name / "l2s_pydra.toml") for name in names}
    activities: list[Record] = []
    files: dict[str, Record] = {}
    newest = {e.source: e for e in sorted(manifest.images.values(), key=lambda e: e.run)}
    for _, entry in sorted(manifest.images.items()):
        activity, image, weights = _segmentation(entry, runs[entry.run], newest[entry.source])
        activities.append(activity)
        files |= {image["Id"]: image, weights["Id"]: weights}
        for name in (name for name in entry.outputs if name.endswith(_DATA)):
            if name in manifest.files and _maker(name, manifest) is entry:
                digest = manifest.files[name].sha256
                files[f"bids::{name}"] = _file(f"bids::{name}", name, digest, activity["Id"])
    label = prov_group(participant)
    documents = {
        f"prov/prov-{label}_act.json": _document("Activities", activities),
        f"prov/prov-{label}_ent.json": _document("Files", files.values()),
    }
    for run in runs.values():
        documents |= run.shared_files()
    return documents


def _maker(name: str, manifest: Manifest) -> ImageEntry:
    """Segmentation that a file is of; of those that share it, the last one (names of runs have the time)."""
    sharing = (entry for entry in manifest.images.values() if name in entry.outputs)
    return max(sharing, key=lambda entry: entry.run)


def _segmentation(entry: ImageEntry, run: Run, newest: ImageEntry) -> tuple[Record, Record, Record]:
    """Activity of an image, the image, and the weights.

    ``newest`` is the last segmentation of the same image: what an earlier one saw is another entity
    if the image was changed in between.
    """
    seen, last = (str(e.made_from.get("image", "n/a")) for e in (entry, newest))
    changed = "" if seen == last else f"#sha256-{seen[:16]}"
    image = _file(f"bids:raw:{entry.source}{changed}", entry.source, seen)
    digest = str(entry.made_from.get("weights", "n/a"))
    known = run.values.get("model", {})
    name = known.get("name") if known.get("sha256") == digest else None
    weights = _weights(digest, name, inside=bool(entry.made_from.get("model_in_dataset")))
    used = [image["Id"], weights["Id"]]
    used += [run.environment["Id"]] if run.values else []
    identity = [entry.source, entry.segmentation, dict(entry.made_from), entry.run]
    activity = {
        "Id": activity_id("segment", identity),
        "Type": ["prov:Activity"],
        "Label": f"Segmentation of {entry.source.rpartition('/')[2]}",
        **run.activity(),
        "Used": used,
        "Parameters": {key: entry.made_from[key] for key in _SEGMENT if key in entry.made_from},
    }
    return activity, image, weights


def _weights(digest: str, name: str | None, *, inside: bool) -> Record:
    if name and inside:
        path = f"model-{name}/weights.safetensors"
        return _file(f"bids:models:{path}", f"models/{path}", digest)
    label = f"weights of the model {name}" if name else "weights of a model"
    return {
        "Id": f"bids::prov#entity-{digest[:16]}",
        "Type": ["prov:Entity"],
        "Label": label,
        "Digest": {"SHA-256": digest},
    }


def model_prov(
    folder: str | Path, *, run: Mapping[str, Any], inputs: Iterable[Mapping[str, str]]
) -> dict[str, Record]:
    """Provenance of a model.

    Parameters
    ----------
    folder : path
        Folder of the model, ``model-<name>``.
    run : mapping
        Record of the run that trained it.
    inputs : iterable of mapping
        ``uri`` and ``sha256`` of each file learned from.

    Returns
    -------
    dict
        As of :func:`participant_prov`.
    """
    folder, made_by = Path(folder), Run(values=run)
    name = folder.name.removeprefix("model-")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sources = [_file(item["uri"], _below(item["uri"]), item["sha256"]) for item in inputs]
    training = config.get("learn", {}).get("training", {})
    activity = {
        "Id": activity_id("learn", [name, run.get("run", {}).get("id")]),
        "Type": ["prov:Activity"],
        "Label": f"Training of the model {name}",
        **made_by.activity(),
        "Used": [*(source["Id"] for source in sources), made_by.environment["Id"]],
        "Parameters": {
            **{key: training.get(key) for key in ("mode", "steps", "seed")},
            "theta": config.get("theta", {}),
        },
    }
    made = [
        _file(
            f"bids:models:{folder.name}/{part}",
            f"models/{folder.name}/{part}",
            hashlib.sha256((folder / part).read_bytes()).hexdigest(),
            activity["Id"],
        )
        for part in ("weights.safetensors", "config.json", "labels.tsv")
    ]
    label = prov_group(folder.name)
    return {
        f"prov/prov-{label}_act.json": _document("Activities", [activity]),
        f"prov/prov-{label}_ent.json": _document("Files", [*sources, *made]),
        **made_by.shared_files(),
    }


def group_prov(
    *, run: Mapping[str, Any], outputs: Mapping[str, str], references: str | None = None
) -> dict[str, Record]:
    """Provenance of the tables of a group.

    Parameters
    ----------
    run : mapping
        Record of the run that wrote them.
    outputs : mapping
        Checksums of the tables by their paths below the root of the derivative.
    references : str, optional
        Name in ``DatasetLinks`` of the data set with reference labels.

    Returns
    -------
    dict
        As of :func:`participant_prov`. What a table was gathered from are its rows: the whole
        derivative is told as its source, and not ten thousand files once more.
    """
    made_by = Run(values=run)
    names = {"bids::.": "this derivative"}
    if references:
        names[f"bids:{references}:."] = "reference labels"
    datasets = [
        {"Id": uri, "Type": ["prov:Entity", "prov:Collection"], "Label": label}
        for uri, label in names.items()
    ]
    activity = {
        "Id": activity_id("evaluate", [run.get("run", {}).get("id"), sorted(outputs)]),
        "Type": ["prov:Activity"],
        "Label": "Volumes of everyone, and overlap with reference labels where there are any",
        **made_by.activity(),
        "Used": [*names, made_by.environment["Id"]],
    }
    files = [_file(f"bids::{p}", p, digest, activity["Id"]) for p, digest in outputs.items()]
    return {
        "prov/prov-group_act.json": _document("Activities", [activity]),
        "prov/prov-group_ent.json": {**_document("Files", files), "Datasets": datasets},
        **made_by.shared_files(),
    }


def activity_id(kind: str, identity: object) -> str:
    """Name an activity; two that differ in anything have different names.

    Parameters
    ----------
    kind : str
        What was done, in one word.
    identity : plain values
        All that distinguishes the activity.
    """
    return f"bids::prov#{kind}-{_short(identity, 16)}"


def _file(uri: str, path: str, digest: str, activity: str | None = None) -> Record:
    return {
        "Id": uri,
        "Type": ["prov:Entity"],
        "Label": path.rpartition("/")[2],
        "AtLocation": path,
        **({"GeneratedBy": [activity]} if activity else {}),
        "Digest": {"SHA-256": digest},
    }


def _document(key: str, records: Iterable[Record]) -> Record:
    return {"@context": CONTEXT, key: list(records)}


def _below(uri: str) -> str:
    """Path of a BIDS URI below the root of its data set.

    >>> _below("bids:raw:sub-01/anat/sub-01_T1w.nii.gz")
    'sub-01/anat/sub-01_T1w.nii.gz'
    """
    return uri.split(":", 2)[2]


def prov_group(name: str) -> str:
    """Value of the ``prov`` entity, which has letters and digits only.

    Parameters
    ----------
    name : str
        Participant (``sub-01``) or folder of a model.

    Examples
    --------
    >>> prov_group("sub-01"), prov_group("model-mixed-randomised1a2b")
    ('sub01', 'modelmixedrandomised1a2b')
    """
    return "".join(char for char in name if char.isalnum())


def _short(value: object, length: int = 8) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _quoted(argument: object) -> str:
    """Argument as it is given to a shell; what stands for a folder stays as it is.

    >>> print(_quoted("<bids_dir>/a"), _quoted(""), _quoted("it's"), _quoted("a b"))
    <bids_dir>/a '' 'it'"'"'s' 'a b'
    """
    text = str(argument)
    return shlex.quote(text) if not text or re.search(r"""[\s'"\\$`;&|*?()#]""", text) else text
