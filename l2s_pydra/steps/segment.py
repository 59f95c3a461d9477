"""Segment one image: from the image and a model to a staged BIDS derivative.

The image is loaded once, brought to the model's grid once, segmented once, and its labels come back
through the same conform object to the grid they are saved on, the image's own.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from .. import __version__
from ..bids.derivatives import derivative_path, write_json, write_text
from ..bids.entities import file_stem
from ..bids.provenance import sidecar
from ..errors import ConfigError
from ..images.conform import Conform
from ..images.saving import save_labels, save_probabilities
from ..images.volume import Volume, load_image, voxel_volume_mm3
from ..labels import LabelScheme
from .device import computing_on
from .outputs import IMAGE_OUTPUTS
from .posterior import predict

if TYPE_CHECKING:
    from ..segmentation import Model

__all__ = ["SegmentResult", "segment"]

logger = logging.getLogger(__name__)

_BRIGHT = 0.15
"""Share of the brightest structures' intensity above which a voxel is not background."""
_MOST_UNLABELLED = 0.35
"""Share of bright voxels outside the structures that a skull-stripped image does not reach."""


@attrs.frozen(kw_only=True)
class SegmentResult:
    """What :func:`segment` wrote."""

    tree: Path
    """Root of the staged BIDS derivative."""
    files: tuple[Path, ...]
    """Files in it."""
    summary: Path
    """JSON with what the participant's report needs; not part of the derivative."""


def segment(
    *,
    image: Path,
    weights: Path,
    config: Path,
    labels: Path,
    entities: Mapping[str, str],
    source: str,
    out_dir: Path,
    device: str = "auto",
    threads: int | None = None,
    probseg: bool = False,
    save_mask: bool = True,
) -> SegmentResult:
    """Segment an image on its own grid.

    Parameters
    ----------
    image : Path
        The image.
    weights, config, labels : Path
        The three files of the model.
    entities : mapping of str to str
        BIDS entities and ``suffix`` of the image, which name the outputs.
    source : str
        Path of the image below the root of its data set, with ``/``.
    out_dir : Path
        Root of the tree to write; ``summary.json`` in it is not part of the derivative.
    device : str, default="auto"
        See :func:`l2s_pydra.steps.device.computing_on`.
    threads : int, optional
        CPU threads of PyTorch.
    probseg : bool, default=False
        Save the posterior of each label, too.
    save_mask : bool, default=True
        Save the union of all labels but the background, too.

    Returns
    -------
    SegmentResult

    Raises
    ------
    ImageError
        If the image cannot be read or used.
    ModelError
        If the model is broken, or its posteriors are not numbers.
    ConfigError
        If the device is not there or ``out_dir`` cannot be written.
    """
    from ..segmentation import Model

    start = time.perf_counter()
    model = Model.load_files(weights, config, labels)
    volume = load_image(image, allow_2d=model.learn_config.segmenter.ndim == 2)
    with computing_on(device, threads) as chosen:
        found = predict(model, volume, chosen, weights=weights)
        channels = found.conform.posterior_to_source(found.posterior)
    conform, posterior = found.conform, found.posterior
    doubts = _doubts(model, found.working, posterior, channels)
    warnings = [*found.warnings, *volume.warnings, *doubts]
    for warning in warnings:
        logger.warning("%s: %s", image, warning)
    staged = _Staged(
        root=Path(out_dir), model=model, entities=entities, source=source, volume=volume
    )
    try:
        staged.labels(channels)
        volumes = staged.volumes(channels, posterior)
        if save_mask:
            staged.mask(channels)
        if probseg:
            staged.probabilities(posterior, conform)
        staged.figure(channels)
        seconds = time.perf_counter() - start
        summary = staged.summary(volumes, warnings, seconds)
    except OSError as error:
        raise ConfigError(
            f"{out_dir}: cannot be written ({error.strerror or error}); "
            "check permissions and free space"
        ) from error
    return SegmentResult(tree=Path(out_dir), files=tuple(staged.files), summary=summary)


def _doubts(
    model: "Model",
    working: npt.NDArray[np.float32],
    posterior: npt.NDArray[np.float32],
    channels: npt.NDArray[np.int16],
) -> list[str]:
    """Say what about a segmentation a person should look at."""
    found = np.bincount(channels.reshape(-1), minlength=len(model.scheme)) > 0
    if not found[1:].any():
        return ["no structure was found; look at the image, its contrast and its orientation"]
    doubts = []
    names = zip(model.scheme.names[1:], found[1:], strict=True)
    missing = [name for name, there in names if not there]
    if missing:
        doubts.append(f"not found: {', '.join(missing)}")
    if _reaches_edge(channels > 0):
        doubts.append("structures reach the edge of the image; parts may be cut off")
    if model.config.get("skull_stripped") and _has_head(working, posterior[0] < 0.5):
        doubts.append(
            "much of the image is bright outside the structures, but the model learned from "
            "skull-stripped images; strip the skull, or use a model for whole heads"
        )
    return doubts


def _reaches_edge(structures: npt.NDArray[np.bool_]) -> bool:
    faces = (
        np.take(structures, end, axis=axis)
        for axis, n in enumerate(structures.shape)
        if n > 1
        for end in (0, n - 1)
    )
    return any(bool(face.any()) for face in faces)


def _has_head(working: npt.NDArray[np.float32], structures: npt.NDArray[np.bool_]) -> bool:
    if not structures.any():
        return False
    bright = working > _BRIGHT * np.percentile(working[structures], 95)
    return bool(
        np.count_nonzero(bright & ~structures) > _MOST_UNLABELLED * np.count_nonzero(bright)
    )


@attrs.define(kw_only=True)
class _Staged:
    """The tree of one image, written file by file."""

    root: Path
    model: "Model"
    entities: Mapping[str, str]
    source: str
    volume: Volume
    files: list[Path] = attrs.field(factory=list)

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
        return str(derivative_path(self.entities, row, segmentation=segmentation))

    @property
    def identity(self) -> dict[str, str]:
        """Name, version and checksum of the model."""
        return {
            "name": self.model.name,
            "version": str(self.model.config.get("version", "n/a")),
            "sha256": self.model.sha256,
        }

    def sidecar(self, key: str, **details: Any) -> None:
        """Write the JSON beside an output."""
        kind = IMAGE_OUTPUTS[key].sidecar or ""
        values = sidecar(
            kind, source=self.source, entities=self.entities, model=self.identity, **details
        )
        write_json(self.path(key), values)

    def labels(self, channels: npt.NDArray[np.int16]) -> None:
        """Write the segmentation, its sidecar and its label table."""
        save_labels(self.path("dseg"), self.model.scheme.to_indices(channels), self.volume)
        self.sidecar("dseg_json")
        _colored(self.model.scheme).write(self.path("dseg_tsv"))

    def mask(self, channels: npt.NDArray[np.int16]) -> None:
        """Write the union of all labels but the background."""
        save_labels(self.path("mask"), channels > 0, self.volume)
        self.sidecar("mask_json")

    def probabilities(self, posterior: npt.NDArray[np.float32], conform: Conform) -> None:
        """Write the posterior of each label on the image's grid."""
        frames = (conform.float_to_source(frame) for frame in posterior)
        save_probabilities(self.path("probseg"), frames, len(posterior), self.volume)
        self.sidecar("probseg_json", labels=self.model.scheme.names)

    def volumes(
        self, channels: npt.NDArray[np.int16], posterior: npt.NDArray[np.float32]
    ) -> list[dict[str, Any]]:
        """Write the table of volumes; return its rows, with the volume under each posterior."""
        from ..reports.colors import hex_color, label_colors

        colors = label_colors(self.model.scheme)
        counts = np.bincount(channels.reshape(-1), minlength=len(self.model.scheme))
        hard = counts * voxel_volume_mm3(self.volume.affine)
        soft = posterior.sum(axis=(1, 2, 3), dtype=np.float64) * self.model.spacing_mm**3
        rows = [
            {
                "index": label.index,
                "name": label.name,
                "color": hex_color(colors[channel]),
                "volume_mm3": round(float(hard[channel]), 3),
                "soft_volume_mm3": round(float(soft[channel]), 3),
            }
            for channel, label in enumerate(self.model.scheme.labels)
            if channel
        ]
        lines = [f"{row['index']}\t{row['name']}\t{row['volume_mm3']}" for row in rows]
        write_text(self.path("morph"), "\n".join(["index\tname\tvolume-mm3", *lines]) + "\n")
        self.sidecar("morph_json", dseg=self.relative("dseg"))
        return rows

    def figure(self, channels: npt.NDArray[np.int16]) -> None:
        """Draw the labels over the image."""
        from ..reports.figures import overlay_mosaic

        scheme = self.model.scheme
        overlay_mosaic(
            self.volume.data,
            scheme.to_indices(channels),
            scheme,
            self.path("figure"),
            affine=self.volume.affine,
        )

    def summary(
        self,
        volumes: Sequence[Mapping[str, Any]],
        warnings: Sequence[str],
        seconds: float,
    ) -> Path:
        """Write what the participant's report needs."""
        values = {
            "image": file_stem(self.source),
            "source": self.source,
            "entities": dict(self.entities),
            "dseg": self.relative("dseg"),
            "figure": self.relative("figure"),
            "files": self._links(),
            "volumes": list(volumes),
            "warnings": list(warnings),
            "model": self.identity,
            "seconds": round(seconds, 2),
            "shape": list(self.volume.shape),
            "spacing_mm": [round(s, 4) for s in self.volume.spacing_mm],
            "software": __version__,
        }
        return write_json(self.root / "summary.json", values)

    def _links(self) -> list[dict[str, str]]:
        """Written images and tables, as links of the report."""
        relative = (path.relative_to(self.root).as_posix() for path in self.files)
        return [
            {"href": path, "text": path.rpartition("/")[2]}
            for path in relative
            if path.endswith((".nii.gz", ".tsv"))
        ]


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
