"""The training grid: scans and label maps are brought to it once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from ..config import LearnConfig
from ..images.conform import Conform
from .alignment import background_level, two_clusters
from .conformed import Conformed, Made
from .schemes import Schemes
from .sources import Source

if TYPE_CHECKING:
    from torch import Tensor

    from ..bilevel.training import RealScan

__all__ = ["GenerationMap", "TrainingGrid", "grid_shape"]

Array = npt.NDArray[Any]

_BLACK = 0.02
"""Normalised intensity below which a voxel of a skull-stripped image counts as empty."""
_HULL_MM = 6.0
"""Background tissue this near the segmented structures stays where images are skull-stripped."""
_MARGIN_MM = {True: 6.0, False: 32.0}
"""Room around the labelled structures, for skull-stripped and for whole-head images."""
_TWO_TISSUES_SHARE = 0.2
"""Labels that fill more of the labelled volume than this are looked at for two tissues."""
_TWO_TISSUES_GAP = 0.165
"""Normalised intensity between the means of two tissues."""
_CLUSTER_VOXELS = 100
"""Fine voxels that a cluster of intensity shall have on average."""


def grid_shape(
    sources: Sequence[Source], config: LearnConfig, *, stripped: bool
) -> tuple[int, int, int]:
    """Voxels of a grid with room for the structures of every scan.

    Parameters
    ----------
    sources : sequence of Source
        The scans to learn from.
    config : LearnConfig
        What it says of the grid and the network is used.
    stripped : bool
        Whether they are skull-stripped.

    Returns
    -------
    3 ints
        Sides that the network can halve as often as it needs.
    """
    multiple = _multiple(config)
    extent = np.max([source.facts.extent_mm for source in sources], 0)
    voxels = (extent + 2 * _MARGIN_MM[stripped]) / config.spacing_mm
    x, y, z = (int(-(-n // multiple) * multiple) for n in voxels)
    return x, y, z if config.segmenter.ndim == 3 else int(np.ceil(voxels[2]))


def _multiple(config: LearnConfig) -> int:
    """Return the number of which the sides of the network's input are multiples.

    >>> _multiple(LearnConfig().evolve(segmenter__depth=3, segmenter__subvoxel=2))
    8
    """
    import torch

    from ..segmentation import Segmenter

    with torch.random.fork_rng(devices=[]):
        return Segmenter(config.segmenter, 2).multiple


@attrs.frozen(kw_only=True, eq=False)
class GenerationMap:
    """A map of generation labels."""

    labels: "Tensor"
    """(*F,) uint8 or int16 generation labels on the fine grid."""
    present: tuple[int, ...]
    """Those that occur."""


@attrs.frozen(kw_only=True, eq=False)
class TrainingGrid:
    """Brings scans and label maps to one grid; keeps what it made in a store."""

    schemes: Schemes
    """The label schemes."""
    tables: str
    """Their digest."""
    config: LearnConfig
    """What it says of the grid and the generator is used."""
    shape: tuple[int, int, int]
    """Voxels of the working grid."""
    stripped: bool
    """Whether the scans are skull-stripped."""
    store: Conformed = attrs.field(factory=Conformed)
    """Where arrays are kept."""

    @property
    def factor(self) -> int:
        """Fine voxels per working voxel and axis."""
        return self.config.synthesis.oversampling

    @property
    def kind(self) -> type[np.integer[Any]]:
        """Type that holds all generation labels."""
        count = len(self.schemes.generation_tables(self.config.synthesis.subclusters)["group"])
        return np.uint8 if count < 256 else np.int16

    def scan(self, source: Source, name: str) -> "RealScan":
        """Bring a real scan to the working and the fine grid."""
        from ..bilevel.training import RealScan

        arrays, _ = self._kept("scan", source, {}, lambda: self._scan(source))
        return RealScan(
            name=name,
            voxel_mm=source.facts.voxel_mm,
            image=arrays["image"],
            target=arrays.get("target", arrays["fine_channels"]),
            fine_image=arrays["fine_image"],
            fine_channels=arrays["fine_channels"],
        )

    def label_map(self, source: Source) -> GenerationMap:
        """Bring a label map to the fine grid, as generation labels."""
        done = {"hull": self.stripped, "kind": self.kind.__name__}
        return self._map("map", source, done, lambda: self._label_map(source))

    def own_map(self, source: Source, scan: "RealScan") -> GenerationMap:
        """Make generation labels of a scan: its own, and tissue that nobody labelled."""
        done = {
            "stripped": self.stripped,
            "subclusters": self.config.synthesis.subclusters,
            "kind": self.kind.__name__,
        }
        return self._map("own", source, done, lambda: self._own_map(scan))

    def affine(self, source: Source) -> npt.NDArray[np.float64]:
        """(4, 4), voxels of the working grid over a source to RAS+ mm."""
        return self._conform(source, fine=False).affine

    def _kept(self, what: str, source: Source, done: dict[str, Any], make: Any) -> Made:
        store = self.store if source.content else Conformed()
        key = {
            "files": source.content,
            "tables": self.tables,
            "shape": self.shape,
            "spacing_mm": self.config.spacing_mm,
            "oversampling": self.factor,
            "center_mm": source.facts.center_mm,
            **done,
        }
        return store.get(what, key, make)

    def _map(self, what: str, source: Source, done: dict[str, Any], make: Any) -> GenerationMap:
        import torch

        def made() -> Made:
            labels: Array = np.ascontiguousarray(make().astype(self.kind))
            present = np.flatnonzero(np.bincount(labels.reshape(-1)))
            return {"labels": torch.from_numpy(labels)}, present.tolist()

        arrays, present = self._kept(what, source, done, made)
        return GenerationMap(labels=arrays["labels"], present=tuple(present))

    def _conform(self, source: Source, *, fine: bool) -> Conform:
        factor = self.factor if fine else 1
        x, y, z = (n * factor for n in self.shape)
        return Conform.to_grid(
            source.loaded.labels,
            self.config.spacing_mm / factor,
            shape=(x, y, z),
            center_mm=source.facts.center_mm,
        )

    def _scan(self, source: Source) -> Made:
        import torch

        from ..synthesis import intensity

        image = source.loaded.image
        assert image is not None
        # Beyond the field of view resampling fills with 0, which is to be the darkest value.
        data = image.data - image.data.min()
        fine = self._conform(source, fine=True)
        count = len(self.schemes.target)
        kind = np.uint8 if count < 256 else np.int16
        channels = torch.from_numpy(fine.labels(source.loaded.labels.data.astype(kind)))
        arrays = {
            "image": torch.from_numpy(self._conform(source, fine=False).image(data)),
            "fine_image": torch.from_numpy(fine.image(data)),
            "fine_channels": channels,
        }
        if self.factor > 1:
            arrays["target"] = intensity.soft_labels(channels, count, self.factor)
        return arrays, None

    def _label_map(self, source: Source) -> Array:
        fine: Array = self._conform(source, fine=True).labels(source.loaded.labels)
        if self.stripped:
            structures = self.schemes.maps_to_target[fine] > 0
            fine = np.where(structures | self._hull(structures), fine, 0)
        return fine

    def _hull(self, structures: Array) -> Array:
        """Close the structures by a ball and fill holes."""
        from scipy.ndimage import binary_closing, binary_fill_holes

        thin = structures[::2, ::2, ::2]
        radius = round(_HULL_MM / (2 * self.config.spacing_mm / self.factor))
        grid = np.ogrid[tuple(slice(-radius, radius + 1) for _ in range(3))]
        ball = sum(axis**2 for axis in grid) <= radius**2
        padded = np.pad(thin, radius)
        closed = binary_fill_holes(binary_closing(padded, ball))
        inner = tuple(slice(radius, radius + n) for n in thin.shape)
        grown = closed[inner].repeat(2, 0).repeat(2, 1).repeat(2, 2)
        hull: Array = grown[tuple(slice(0, n) for n in structures.shape)]
        return hull

    def _own_map(self, scan: "RealScan") -> Array:
        image, channels = _unit(scan), scan.fine_channels.numpy()
        dark = _BLACK if self.stripped else background_level(image)
        tissue = (channels > 0) | (image > dark)
        labels = np.where(tissue, channels.astype(np.int16) + len(self.schemes.maps), 0)
        if self.config.synthesis.subclusters > 1:
            return self._with_subclusters(labels, image)
        for channel in range(1, len(self.schemes.target)):
            inside = channels == channel
            if inside.sum() > _TWO_TISSUES_SHARE * (channels > 0).sum():
                threshold, gap = two_clusters(image[inside])
                if gap > _TWO_TISSUES_GAP:
                    labels[inside & (image < threshold)] += len(self.schemes.target)
        return labels

    def _with_subclusters(self, labels: Array, image: Array) -> Array:
        """Split each label of a learning scan by intensity, as far as it has enough voxels."""
        import torch

        from ..synthesis.subclusters import split_by_intensity

        values, sizes = np.unique(labels[labels > 0], return_counts=True)
        counts = {
            int(value): min(self.config.synthesis.subclusters, int(size) // _CLUSTER_VOXELS)
            for value, size in zip(values, sizes, strict=True)
            if size >= 2 * _CLUSTER_VOXELS
        }
        clusters, origin = split_by_intensity(
            torch.from_numpy(labels), torch.from_numpy(image), counts
        )
        layer = len(self.schemes.target)
        table = np.array([label + layer * cluster for label, cluster in origin], dtype=np.int16)
        split: Array = table[clusters.numpy()]
        return split


def _unit(scan: "RealScan") -> Array:
    """Fine image of a scan, normalised."""
    from ..normalisation import normalise

    image: Array = normalise(scan.fine_image[None, None])[0, 0].numpy()
    return image
