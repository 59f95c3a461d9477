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

from ..bids.checksums import sha256_of
from ..errors import ConfigError
from ..images.coverage import Coverage
from ..images.headers import is_placed
from ..images.volume import Volume, load_image, voxel_volume_mm3
from .anatomy import is_extracranial, named_structures, no_intracranial_reason
from .components import Removed, keep_largest
from .device import computing_on
from .flags import asymmetry_flags, field_of_view_flags, removal_flags, score_flags
from .measures import Intracranial, intracranial, structure_rows
from .outputs import check_resolution
from .posterior import Prediction, predict
from .sources import is_stripped
from .staged import Staged

if TYPE_CHECKING:
    from ..segmentation import Model

__all__ = ["SegmentResult", "segment"]

logger = logging.getLogger(__name__)

_BRIGHT = 0.15
"""Share of the brightest structures' intensity above which a voxel is not background."""
_MOST_UNLABELLED = 0.35
"""Share of bright voxels outside the structures that a skull-stripped image does not reach."""
_NOWHERE = (
    "nothing was written on the grid of the network: the image has neither qform nor sform, so that "
    "programs disagree on which side is left, and would on where the two grids lie; set one of them"
)
Channels = npt.NDArray[np.int16]


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
    entropy: bool = False,
    save_mask: bool = True,
    res: str | None = None,
    keep_largest: Sequence[str] | None = None,
    flip: bool = True,
    test_time_draws: int = 1,
    max_memory_mb: float | None = None,
    model_in_dataset: bool = True,
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
    entropy : bool, default=False
        Save the entropy of the posteriors, too.
    save_mask : bool, default=True
        Save the union of all labels but the background, too.
    res : str, optional
        Voxel size of the model's grid, such as ``1mm``: save label map, mask and what else is asked
        for on that grid, too, with this ``res`` entity; not for an image that has neither qform nor
        sform, of which a warning tells.
    keep_largest : sequence of str, optional
        Structures of which only the largest piece is kept in the label maps (posteriors stay as
        they are): ``all``, or their names, or none for all that do not rightly come in parts
        (:func:`l2s_pydra.steps.anatomy.comes_in_parts`).
    flip : bool, default=True
        Average with the prediction on the left-right mirror image.
    test_time_draws : int, default=1
        Average over so many draws of small changes of contrast, noise and position; the first one
        changes nothing.
    max_memory_mb : float, optional
        Memory that the network may take on top of itself; tiles become as small as that asks for.
    model_in_dataset : bool, default=True
        Whether the model lies in ``models`` of the data set that the tree will be part of;
        otherwise sidecars name it by its checksum alone.

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
        If the device is not there, ``out_dir`` cannot be written, or ``res`` is another than that
        of the model's grid.
    LabelError
        If ``keep_largest`` names a structure that the model does not have.
    """
    from ..segmentation import Model

    start = time.perf_counter()
    model = Model.load_files(weights, config, labels)
    network = _is_network_grid(res, model, entities)
    largest = named_structures(model.scheme, keep_largest)
    volume = load_image(image, allow_2d=model.learn_config.segmenter.ndim == 2)
    with computing_on(device, threads) as chosen:
        found = predict(
            model,
            volume,
            chosen,
            weights=weights,
            flip=flip,
            draws=test_time_draws,
            memory_mb=max_memory_mb,
        )
        result = _Result.of(found, volume, model, largest)
    if network and not is_placed(volume.header):
        network = False
        result.warnings.append(_NOWHERE)
    # In a pipeline the file may have the name of a cache; ``source`` says whose it is.
    where = image if image.as_posix().endswith(source) else f"{source} ({image})"
    # What is odd about the file was logged where it was read
    for warning in (*result.warnings, *(f["text"] for f in result.flags)):
        logger.warning("%s: %s", where, warning)
    staged = Staged(
        root=Path(out_dir),
        model=model,
        entities=entities,
        source=source,
        source_sha256=sha256_of(image),
        like=volume,
        model_in_dataset=model_in_dataset,
        details={
            "FlipAveraging": found.flipped,
            "TestTimeDraws": test_time_draws,
            **_repeated(found.coverage),
        },
    )
    try:
        staged.labels(result.channels, **result.details)
        staged.volumes(result.rows, result.inside)
        if save_mask:
            staged.mask(result.channels)
        if probseg:
            staged.probabilities(found.frames())
        if entropy:
            staged.entropy(found.entropy())
        if network:
            _write_on_network_grid(staged, found, largest, probseg, entropy, save_mask)
        staged.figure(result.channels)
        seconds = round(time.perf_counter() - start, 2)
        summary = staged.summary({**result.summary, "seconds": seconds})
    except OSError as error:
        raise ConfigError(
            f"{out_dir}: cannot be written ({error.strerror or error}); "
            "check permissions and free space"
        ) from error
    return SegmentResult(tree=Path(out_dir), files=tuple(staged.files), summary=summary)


def _is_network_grid(res: str | None, model: "Model", entities: Mapping[str, str]) -> bool:
    """Whether outputs on the network's grid are asked for; another grid is refused."""
    if res is None:
        return False
    label = check_resolution(res, model.spacing_mm, model.name)
    if entities.get("res") == label:
        raise ConfigError(
            f"--res {res}: the name of the image has res-{label} already, so that the outputs on "
            "both grids would have one name; leave the option out for this image"
        )
    return True


def _write_on_network_grid(
    staged: Staged,
    found: Prediction,
    largest: Sequence[int],
    probseg: bool,
    entropy: bool,
    save_mask: bool,
) -> None:
    """Write what was asked for on the grid of the network."""
    there = staged.on_network_grid(found.volume)
    channels, removed = keep_largest(found.working_channels(), largest)
    there.labels(channels, **_removal(staged.model, largest, removed, there.like))
    if save_mask:
        there.mask(channels)
    if probseg:
        there.probabilities(found.working_frames())
    if entropy:
        there.entropy(found.working_entropy())


@attrs.frozen(kw_only=True, eq=False)
class _Result:
    """A segmentation on the grid of the image, and what is to be said of it."""

    channels: Channels
    rows: list[dict[str, Any]]
    inside: Intracranial
    warnings: list[str]
    flags: list[dict[str, Any]]
    header: tuple[str, ...]
    details: dict[str, Any]
    quality: Mapping[str, Any] | None

    @classmethod
    def of(
        cls, found: Prediction, volume: Volume, model: "Model", largest: Sequence[int]
    ) -> "_Result":
        scheme = model.scheme
        quality = model.config.get("quality") or None
        channels, removed = keep_largest(found.channels(), largest)
        rows = structure_rows(
            scheme,
            channels,
            found.soft(),
            voxel_mm3=voxel_volume_mm3(volume.affine),
            working_voxel_mm3=voxel_volume_mm3(found.conform.affine),
            quality=quality,
        )
        stripped = bool(model.config.get("skull_stripped")) or (
            not no_intracranial_reason(scheme, stripped=False)
            and _stripped(volume, channels, model)
        )
        flags = [
            *field_of_view_flags(channels, volume.affine, scheme),
            *score_flags(rows, quality),
            *asymmetry_flags(rows, scheme),
            *removal_flags(channels, removed, scheme),
        ]
        return cls(
            channels=channels,
            rows=_colored_rows(rows, model),
            inside=intracranial(rows, scheme, stripped=stripped),
            warnings=[*found.warnings, *_doubts(model, found, channels)],
            flags=[flag.row for flag in flags],
            header=volume.warnings,
            details=_removal(model, largest, removed, volume),
            quality=quality,
        )

    @property
    def summary(self) -> dict[str, Any]:
        """What the page of the participant shows."""
        known = self.quality or {}
        return {
            "volumes": self.rows,
            "intracranial": self.inside.row,
            "warnings": self.warnings,
            "header_warnings": list(self.header),
            "flags": self.flags,
            "removed": self.details.get("LargestPieceOnly", {}).get("Removed", []),
            "calibration": {key: known.get(key) for key in ("images", "error")},
        }


def _repeated(coverage: Coverage | None) -> dict[str, Any]:
    """Say, for the sidecar, which slices the network was shown again; empty if none."""
    if coverage is None:
        return {}
    counts = {"Axis": coverage.axis, "Before": coverage.before, "After": coverage.after}
    return {"RepeatedSlices": {**counts, "Resliced": coverage.turned}}


def _removal(
    model: "Model", largest: Sequence[int], removed: Sequence[Removed], grid: Volume
) -> dict[str, Any]:
    """Describe, for the sidecar, which pieces were taken away; empty if nobody asked for it."""
    if not largest:
        return {}
    names, voxel = model.scheme.names, voxel_volume_mm3(grid.affine)
    rows = [
        {
            "Name": names[item.channel],
            "Pieces": item.pieces,
            "Voxels": item.voxels,
            "VolumeMm3": round(item.voxels * voxel, 3),
        }
        for item in removed
    ]
    kept = {"Structures": [names[channel] for channel in largest], "Removed": rows}
    return {"LargestPieceOnly": kept}


def _colored_rows(rows: Sequence[Mapping[str, Any]], model: "Model") -> list[dict[str, Any]]:
    from ..reports.colors import hex_color, label_colors

    colors = label_colors(model.scheme)[1:]
    return [{**row, "color": hex_color(c)} for row, c in zip(rows, colors, strict=True)]


def _stripped(volume: Volume, channels: Channels, model: "Model") -> bool:
    """Whether the image is black away from what lies inside the skull."""
    outside = [bool(c) and is_extracranial(x) for c, x in enumerate(model.scheme.labels)]
    structures = (channels > 0) & ~np.array(outside)[channels]
    return bool(structures.any()) and is_stripped(volume, structures)


def _doubts(model: "Model", found: Prediction, channels: Channels) -> list[str]:
    """Say what about a segmentation a person should look at."""
    present = np.bincount(channels.reshape(-1), minlength=len(model.scheme)) > 0
    if not present[1:].any():
        return ["no structure was found; look at the image, its contrast and its orientation"]
    doubts = []
    names = zip(model.scheme.names[1:], present[1:], strict=True)
    missing = [name for name, there in names if not there]
    if missing:
        doubts.append(f"not found: {', '.join(missing)}")
    if model.config.get("skull_stripped") and _has_head(found.working, found.structures()):
        doubts.append(
            "much of the image is bright outside the structures, but the model learned from "
            "skull-stripped images; strip the skull, or use a model for whole heads"
        )
    return doubts


def _has_head(working: npt.NDArray[np.float32], structures: npt.NDArray[np.bool_]) -> bool:
    if not structures.any():
        return False
    bright = working > _BRIGHT * np.percentile(working[structures], 95)
    return bool(
        np.count_nonzero(bright & ~structures) > _MOST_UNLABELLED * np.count_nonzero(bright)
    )
