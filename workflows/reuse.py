"""What is done already, and what is missing or changed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from l2s_pydra.bids.checksums import Checksums
from l2s_pydra.bids.derivatives import dataset_path
from l2s_pydra.bids.entities import ImageRecord
from l2s_pydra.bids.manifest import ImageEntry, Manifest, manifest_of
from l2s_pydra.bids.prov import prov_group
from l2s_pydra.steps.outputs import DATASET_OUTPUTS

from .model_files import ModelFiles
from .options import Options

__all__ = ["Decision", "Reuse", "decide", "page_fault"]

_CHANGED = {
    "image": "the image changed",
    "source": "the image changed its place",
    "entities": "the image changed its name",
    "weights": "the model changed",
    "config": "the settings of the model changed",
    "labels": "the label table of the model changed",
    "model_in_dataset": "the model changed its place",
    "code_version": "the software changed",
}


@attrs.frozen
class Decision:
    """Whether an image has to be segmented, and why."""

    status: Literal["done", "new", "changed", "altered", "forced"]
    """``done``; or ``new``, ``changed`` (image, model, option or software), ``altered`` (an output is
    not what was written) or ``forced``."""
    reason: str = ""
    """In words, for the log."""

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return self.status == "done"


def decide(
    made_from: Mapping[str, Any],
    entry: ImageEntry | None,
    faults: Iterable[str] = (),
    *,
    force: bool = False,
) -> Decision:
    """Decide whether an image has to be segmented.

    Parameters
    ----------
    made_from : mapping
        All that decides the result, as it would be made now.
    entry : ImageEntry or None
        What is recorded of the image.
    faults : iterable of str
        What is wrong with recorded outputs; looked at only if nothing else speaks against them.
    force : bool, default=False
        Do it in any case.

    Examples
    --------
    >>> decide({"image": "aa"}, None)
    Decision(status='new', reason='not segmented before')
    """
    if force:
        return Decision("forced", "--force")
    if entry is None:
        return Decision("new", "not segmented before")
    before = entry.made_from
    changes = [name for name in made_from if made_from[name] != before.get(name)]
    changes += [name for name in before if name not in made_from]
    if changes:
        return Decision("changed", _in_words(changes, made_from, before))
    fault = next(iter(faults), None)
    return Decision("altered", fault) if fault else Decision("done", "nothing changed")


def _in_words(changes: list[str], now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    told = [name for name in _CHANGED if name in changes]
    words = [_CHANGED[name] for name in told]
    # Weights are named by their checksum, so that a new model has new settings as a matter of course.
    if "weights" in told:
        words = [word for word in words if word != _CHANGED["config"]]
    for name in changes:
        if name not in _CHANGED:
            option = f"--{name.replace('_', '-')}"
            words.append(f"{option} changed from {before.get(name)} to {now.get(name)}")
    return ", ".join(words)


@attrs.define(kw_only=True)
class Reuse:
    """Decides for the images of a run."""

    output_dir: Path
    """Root of the derivative."""
    checksums: Checksums
    """Of images, models and outputs."""
    shared: Mapping[str, Any]
    """What decides the results of all images alike, in plain values."""
    segmentation: str
    """``seg`` entity of the outputs."""
    force: bool = False
    """Do everything again."""
    _read: dict[str, Manifest] = attrs.field(factory=dict, init=False)

    @classmethod
    def of(
        cls,
        options: Options,
        model: ModelFiles,
        checksums: Checksums,
        shared: Mapping[str, Any],
        *,
        force: bool = False,
    ) -> "Reuse":
        """Prepare for a run.

        Parameters
        ----------
        options : Options
            What was asked for.
        model : ModelFiles
            The model to segment with.
        checksums : Checksums
            Where checksums come from.
        shared : mapping
            Inputs that all images share, the files of the model as paths
            (:func:`l2s_pydra.workflows.segmenting.shared_inputs`).
        force : bool, default=False
            Do everything again.
        """
        return cls(
            output_dir=options.output_dir,
            checksums=checksums,
            shared={
                name: checksums.of(value) if isinstance(value, Path) else value
                for name, value in shared.items()
            },
            segmentation=model.segmentation,
            force=force,
        )

    def made_from(self, image: ImageRecord) -> dict[str, Any]:
        """All that decides the result of an image, in plain values.

        Raises
        ------
        OSError
            If the image cannot be read.
        """
        own = {"image": self.checksums.of(image.path), "entities": dict(image.entities)}
        return {**own, **self.shared, "seg_only": False}

    def decision(
        self, image: ImageRecord, made_from: Mapping[str, Any], *, seg_only: bool = False
    ) -> Decision:
        """Decide on an image, given what it would be made from (:meth:`made_from`).

        If only label maps are asked for, and all outputs are there, nothing is to be done.
        """
        if seg_only and not made_from["seg_only"]:
            whole = self.decision(image, made_from)
            return whole if whole.is_done else self.decision(image, {**made_from, "seg_only": True})
        manifest = self._manifest(image.participant)
        entry = manifest.images.get((image.relative_path, self.segmentation))
        faults = self._faults(entry, manifest) if entry else ()
        return decide(made_from, entry, faults, force=self.force)

    def recorded(self, image: ImageRecord) -> dict[str, str]:
        """SHA-256 of the outputs of an image as they were published."""
        manifest = self._manifest(image.participant)
        entry = manifest.images.get((image.relative_path, self.segmentation))
        names = entry.outputs if entry else ()
        return {name: manifest.files[name].sha256 for name in names if name in manifest.files}

    def page_fault(self, participant: str) -> str | None:
        """Say what is wrong with page and provenance of a participant whose images are done."""
        manifest = self._manifest(participant)
        row, group = DATASET_OUTPUTS["provenance"], prov_group(participant)
        files = [str(dataset_path(row, group=group, kind=kind)) for kind in ("act", "ent")]
        return page_fault(participant, self.output_dir, self.checksums, manifest) or next(
            _faults(files, manifest, self.output_dir, self.checksums), None
        )

    def _manifest(self, participant: str) -> Manifest:
        place = manifest_of(f"{participant}/")
        if place not in self._read:
            self._read[place] = Manifest.read_or_begin(self.output_dir / place)
        return self._read[place]

    def _faults(self, entry: ImageEntry, manifest: Manifest) -> Iterator[str]:
        """Say what is wrong with the recorded outputs of an image."""
        return _faults(entry.outputs, manifest, self.output_dir, self.checksums)


def page_fault(
    participant: str, output_dir: Path, checksums: Checksums, manifest: Manifest | None = None
) -> str | None:
    """Say what is wrong with the page of a participant; ``None`` if it is as it was written.

    Parameters
    ----------
    participant : str
        ``sub-<label>``.
    output_dir : Path
        Root of the derivative.
    checksums : Checksums
        Of files there.
    manifest : Manifest, optional
        That of the participant, if it has been read.
    """
    page = f"{participant}.html"
    manifest = manifest or Manifest.read_or_begin(output_dir / manifest_of(page))
    return next(_faults([page], manifest, output_dir, checksums), None)


def _faults(
    names: Iterable[str], manifest: Manifest, output_dir: Path, checksums: Checksums
) -> Iterator[str]:
    """Say which files are not what was written."""
    for name in names:
        written = manifest.files.get(name)
        path = output_dir / name
        try:
            if written is None:
                yield f"{name} is not recorded"
            elif path.stat().st_size != written.size or checksums.of(path) != written.sha256:
                yield f"{name} was altered"
        except OSError:
            yield f"{name} is missing"
