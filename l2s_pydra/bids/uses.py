"""Which models segmented the images of a derivative, and how, as its sidecars tell.

A derivative is made by many runs, often of several models. What is true of all of it is read from
it, not from the run that happens to be the last.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..jsonfiles import read_json

__all__ = ["Segmented", "Use", "counted_uses", "find_uses", "model_facts", "models_of", "segmented"]

_RAW = "bids:raw:"


@attrs.frozen(kw_only=True)
class Use:
    """Images that one model segmented in one way."""

    model: str
    """Name of the model."""
    sha256: str
    """Checksum of its weights."""
    software: str
    """Version of the software that segmented."""
    segmentation: str
    """Value of the ``seg`` entity."""
    flip: bool | None
    """Whether posteriors were averaged with those of the mirror image; None if nothing says so."""
    draws: int | None
    """Number of small changes of each image that posteriors were averaged over."""
    largest: tuple[str, ...]
    """Structures of which only the largest piece was kept."""
    contrasts: Mapping[str, int] = attrs.field(factory=dict, hash=False, eq=False)
    """Number of images of each suffix."""
    participants: int = attrs.field(default=0, eq=False)
    """Number of participants."""
    volumes: bool = attrs.field(default=False, eq=False)
    """Whether there are tables of volumes."""

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(self.contrasts.values())


@attrs.frozen(kw_only=True)
class Segmented:
    """An image that was segmented."""

    use: Use
    """By which model and how; without numbers."""
    participant: str
    """``sub-<label>``."""
    suffix: str
    """Of the image."""
    volumes: bool
    """Whether there is a table of volumes."""


def find_uses(output_dir: str | Path) -> list[Use]:
    """Read from the sidecars of a derivative which models segmented its images, and how.

    Parameters
    ----------
    output_dir : path
        Root of the derivative.

    Returns
    -------
    list of Use
        The one with the most images first. Sidecars that cannot be read, or that another program
        wrote, count as nothing.
    """
    return counted_uses(segmented(output_dir))


def segmented(output_dir: str | Path, participant: str = "sub-*") -> Iterator[Segmented]:
    """Read from the sidecars of a derivative which images were segmented, and how.

    Parameters
    ----------
    output_dir : path
        Root of the derivative.
    participant : str
        Whose images, ``sub-<label>``; everyone's by default.
    """
    for path, values in _sidecars(Path(output_dir), participant):
        use, source = _use(path.name, values), _source(values)
        if use is not None and source is not None:
            suffix = source.rpartition("_")[2].partition(".")[0]
            table = path.with_name(path.name.replace("_dseg.json", "_morph.tsv"))
            yield Segmented(
                use=use,
                participant=source.partition("/")[0],
                suffix=suffix,
                volumes=table.is_file(),
            )


def counted_uses(images: Iterable[Segmented]) -> list[Use]:
    """Count images and participants of each use; the one with the most images first."""
    contrasts: dict[Use, Counter[str]] = {}
    participants: dict[Use, set[str]] = {}
    measured = set()
    for image in images:
        if image.volumes:
            measured.add(image.use)
        contrasts.setdefault(image.use, Counter())[image.suffix] += 1
        participants.setdefault(image.use, set()).add(image.participant)
    found = [
        attrs.evolve(
            use,
            contrasts=dict(sorted(count.items())),
            participants=len(participants[use]),
            volumes=use in measured,
        )
        for use, count in contrasts.items()
    ]
    return sorted(found, key=lambda use: (-use.images, use.model, use.segmentation))


def _sidecars(root: Path, participant: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Sidecars of segmentations on the grids of their images."""
    for pattern in ("anat/*_dseg.json", "ses-*/anat/*_dseg.json"):
        for path in sorted(root.glob(f"{participant}/{pattern}")):
            values = _read(path)
            # On the grid of the network, the same segmentation once more.
            if "the grid that the model works on" not in str(values.get("Resolution", "")):
                yield path, values


def _use(name: str, values: Mapping[str, Any]) -> Use | None:
    if not isinstance(values.get("ModelSHA256"), str) or "_seg-" not in name:
        return None
    kept = values.get("LargestPieceOnly") or {}
    flip, draws = values.get("FlipAveraging"), values.get("TestTimeDraws")
    return Use(
        model=str(values.get("ModelName", "n/a")),
        sha256=values["ModelSHA256"],
        software=str(values.get("SoftwareVersion", "n/a")),
        segmentation=name.partition("_seg-")[2].partition("_")[0],
        flip=flip if isinstance(flip, bool) else None,
        draws=draws if isinstance(draws, int) else None,
        largest=tuple(kept.get("Structures", ())) if isinstance(kept, Mapping) else (),
    )


def _source(values: Mapping[str, Any]) -> str | None:
    sources = values.get("Sources")
    found = [s for s in sources if str(s).startswith(_RAW)] if isinstance(sources, list) else []
    return str(found[0]).removeprefix(_RAW) if found else None


def model_facts(folder: str | Path, sha256: str) -> dict[str, Any]:
    """Read what is known of a model: its configuration, its checksum, who it learned from.

    Parameters
    ----------
    folder : path
        Folder of the model.
    sha256 : str
        Checksum of its weights.

    Returns
    -------
    dict
        Contents of ``config.json``, ``sha256``, and ``roles``: for each role in ``splits.tsv``,
        the numbers of ``participants`` and ``images``.
    """
    folder = Path(folder)
    return {**_read(folder / "config.json"), "sha256": sha256, "roles": _roles(folder)}


def models_of(output_dir: str | Path, uses: Iterable[Use]) -> list[dict[str, Any]]:
    """Read what is known of the models that were used, from the folder ``models``.

    One that lies elsewhere is known by name and checksum alone.
    """
    names = dict.fromkeys((use.model, use.sha256) for use in uses)
    return [_named(Path(output_dir), name, sha256) for name, sha256 in names]


def _named(root: Path, name: str, sha256: str) -> dict[str, Any]:
    folder = root / "models" / f"model-{name}"
    # A name out of a sidecar: it must not lead out of the folder of models.
    inside = folder.parent == root / "models" and (folder / "config.json").is_file()
    known = model_facts(folder, sha256) if inside else {}
    return {**known, "name": name, "sha256": sha256}


def _roles(folder: Path) -> dict[str, dict[str, int]]:
    try:
        with (folder / "splits.tsv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError, csv.Error):
        return {}
    images = Counter(row.get("role") or "n/a" for row in rows)
    people = {role: {r["participant_id"] for r in rows if r.get("role") == role} for role in images}
    return {
        role: {"participants": len(people[role]), "images": count} for role, count in images.items()
    }


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; what cannot be read is empty."""
    try:
        values = read_json(path)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
