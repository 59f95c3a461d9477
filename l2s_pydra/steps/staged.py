"""The staged tree of one image, written file by file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from .. import __version__
from ..bids.derivatives import derivative_path, write_json, write_text
from ..bids.entities import file_stem
from ..bids.provenance import sidecar
from ..images.saving import save_float, save_labels, save_probabilities
from ..images.volume import Volume
from ..labels import LabelScheme
from .measures import INTRACRANIAL, Intracranial, table
from .outputs import IMAGE_OUTPUTS, on_network_grid

if TYPE_CHECKING:
    from ..segmentation import Model

__all__ = ["Staged"]

_FILL = 0.33
"""Opacity of labels in the figure; the image shows through, outlines are opaque."""
Channels = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]


@attrs.define(kw_only=True)
class Staged:
    """The tree of one image."""

    root: Path
    """Where it lies."""
    model: "Model"
    """What segmented the image."""
    entities: Mapping[str, str]
    """Entities and ``suffix`` of the image."""
    source: str
    """Path of the image below the root of its data set."""
    source_sha256: str | None = None
    """Checksum of its file."""
    like: Volume
    """The grid that is written on: that of the image, or that of the network."""
    model_in_dataset: bool = True
    """Whether sidecars may point to the weights."""
    network: bool = False
    """Whether the grid is that of the network."""
    details: Mapping[str, Any] = attrs.field(factory=dict)
    """How the segmentation was made, for the sidecars."""
    files: list[Path] = attrs.field(factory=list)
    """What was written."""

    def on_network_grid(self, working: Volume) -> "Staged":
        """Return the same tree, to be written to on the grid of the network."""
        return attrs.evolve(self, like=working, network=True)

    def path(self, key: str) -> Path:
        """Where a row of the table of outputs goes; the file counts as written."""
        path = self.root / self.relative(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.files.append(path)
        return path

    def relative(self, key: str) -> str:
        """Path of a row of the table of outputs below the root."""
        segmentation = str(self.model.config["segmentation"])
        row = IMAGE_OUTPUTS[key]
        if self.network:
            row = on_network_grid(row, self.model.spacing_mm)
        return str(derivative_path(self.entities, row, segmentation=segmentation))

    @property
    def identity(self) -> dict[str, str]:
        """Name, version and checksum of the model."""
        return {
            "name": self.model.name,
            "version": str(self.model.config.get("version", "n/a")),
            "sha256": self.model.sha256,
        }

    def sidecar(self, key: str, **fields: Any) -> None:
        """Write the JSON beside an output."""
        spacing = self.model.spacing_mm
        values = sidecar(
            IMAGE_OUTPUTS[key].sidecar or "",
            source=self.source,
            source_sha256=self.source_sha256,
            entities=self.entities,
            model=self.identity,
            model_in_dataset=self.model_in_dataset,
            resolution=f"{spacing:g} mm, the grid that the model works on"
            if self.network
            else None,
            **fields,
        )
        write_json(self.path(key), values)

    def labels(self, channels: Channels, **details: Any) -> None:
        """Write the segmentation, its sidecar and its label table."""
        save_labels(self.path("dseg"), self.model.scheme.to_indices(channels), self.like)
        self.sidecar("dseg_json", details={**self.details, **details})
        _colored(self.model.scheme).write(self.path("dseg_tsv"))

    def mask(self, channels: Channels) -> None:
        """Write the union of all labels but the background."""
        save_labels(self.path("mask"), channels > 0, self.like)
        self.sidecar("mask_json")

    def probabilities(self, frames: Iterable[Floats]) -> None:
        """Write the posterior of each label."""
        names = self.model.scheme.names
        save_probabilities(self.path("probseg"), frames, len(names), self.like)
        self.sidecar("probseg_json", labels=names, details=self.details)

    def entropy(self, values: Floats) -> None:
        """Write the normalised entropy of the posteriors."""
        save_float(self.path("entropy"), values, self.like)
        self.sidecar("entropy_json", labels=self.model.scheme.names, details=self.details)

    def volumes(self, rows: Sequence[Mapping[str, Any]], inside: Intracranial) -> None:
        """Write the table of volumes and scores."""
        write_text(self.path("morph"), table(rows, inside))
        details = {
            "IntracranialRow": INTRACRANIAL,
            "IntracranialStructures": list(inside.structures),
            **({"IntracranialNotAvailable": inside.reason} if inside.reason else {}),
            "PredictedDice": calibration_in_words(self.model.config.get("quality")),
        }
        self.sidecar("morph_json", dseg=self.relative("dseg"), details=details)

    def figure(self, channels: Channels) -> None:
        """Draw the labels over the image."""
        from ..reports.figures import overlay_mosaic

        scheme = self.model.scheme
        overlay_mosaic(
            self.like.data,
            scheme.to_indices(channels),
            scheme,
            self.path("figure"),
            affine=self.like.affine,
            alpha=_FILL,
        )

    def summary(self, values: Mapping[str, Any]) -> Path:
        """Write what the participant's report needs."""
        about = {
            "image": file_stem(self.source),
            "source": self.source,
            "entities": dict(self.entities),
            "segmentation": str(self.model.config["segmentation"]),
            "dseg": self.relative("dseg"),
            "figure": self.relative("figure"),
            "files": self._links(),
            "model": self.identity,
            "shape": list(self.like.shape),
            "spacing_mm": [round(s, 4) for s in self.like.spacing_mm],
            "software": __version__,
        }
        return write_json(self.root / "summary.json", {**about, **values})

    def _links(self) -> list[dict[str, str]]:
        """Written images and tables, as links of the report."""
        relative = (path.relative_to(self.root).as_posix() for path in self.files)
        return [
            {"href": path, "text": path.rpartition("/")[2]}
            for path in relative
            if path.endswith((".nii.gz", ".tsv"))
        ]


def calibration_in_words(quality: Mapping[str, Any] | None) -> str:
    """Say what the predicted Dice rests on.

    >>> calibration_in_words({"images": 1, "error": None})
    'a line for each structure, fitted to 1 validation image of the model'
    """
    if not quality:
        return "n/a: the model holds no calibration; self-dice is not calibrated"
    images = quality["images"]
    words = (
        f"a line for each structure, fitted to {images} validation "
        f"image{'' if images == 1 else 's'} of the model"
    )
    error = quality.get("error")
    return words if error is None else f"{words}; error for an image left out of the fit {error}"


def _colored(scheme: LabelScheme) -> LabelScheme:
    """Scheme with the columns BIDS knows, and the colours of the figures.

    ``mapping`` is left out: in a BIDS derivative it means the standard label list, in a model the
    scheme that was learned from.
    """
    from ..reports.colors import hex_color, label_colors

    colors = label_colors(scheme)
    return LabelScheme(
        [
            attrs.evolve(label, color=hex_color(color), mapping=None, side=None, group=None)
            for label, color in zip(scheme.labels, colors, strict=True)
        ]
    )
