"""From files to what training needs: scans and label maps on the training grid.

Every scan and label map is loaded once, checked, brought to the grid once, and kept in memory.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..config import LearnConfig
from ..errors import DatasetError, L2SError
from ..images.conform import Conform
from ..images.volume import Volume, check_same_grid, load_image, load_labels
from .moments import Moments, measure_moments, pooled
from .schemes import UNLABELLED, Schemes

__all__ = ["measure", "prepare"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
_BLACK = 0.02
"""Normalised intensity below which a voxel counts as empty."""
_HULL_MM = 6.0
"""Background tissue this near the segmented structures stays where images are skull-stripped."""
_MARGIN_MM = {True: 6.0, False: 32.0}
"""Room around the labelled structures, for skull-stripped and for whole-head images."""
_TWO_TISSUES_SHARE = 0.2
"""Labels that fill more of the labelled volume than this are looked at for two tissues."""
_CLUSTER_VOXELS = 100
"""Fine voxels that a cluster of intensity shall have on average."""
_TWO_TISSUES_GAP = 0.165
"""Normalised intensity between the means of two tissues."""


@attrs.frozen(kw_only=True, eq=False)
class _Labelled:
    """A volume of labels in target channels (or map channels), and the middle of its structures."""

    labels: Volume
    channels: Array
    structures: Array
    """Where the target has a structure."""
    image: Volume | None = None

    def box_mm(self) -> tuple[Array, Array]:
        """Lowest and highest corner of the structures, RAS+ mm."""
        where = np.argwhere(self.structures)
        if len(where) == 0:
            raise DatasetError(
                f"{self.labels.path}: holds none of the structures to segment; "
                "check the label table and the mapping"
            )
        corners = np.array(np.meshgrid(*zip(where.min(0), where.max(0), strict=True))).reshape(
            3, -1
        )
        world = self.labels.affine[:3, :3] @ corners + self.labels.affine[:3, 3:]
        return world.min(1), world.max(1)


def prepare(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    names: Sequence[str],
    roles: Sequence[str],
    label_maps: Sequence[Path],
    schemes: Schemes,
    config: LearnConfig,
    progress: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Load everything and bring it to the training grid.

    Parameters
    ----------
    images, labels : sequences of Path
        Real images and their labels, in pairs.
    names, roles : sequences of str
        Name of each image, and ``learn`` or ``validate``.
    label_maps : sequence of Path
        Label maps for synthesis; the learning images' own are added.
    schemes : Schemes
        The label schemes.
    config : LearnConfig
        What it says of the grid, the generator and the network is used.
    progress : callable, optional
        Called with a text and the number of files done and to do.

    Returns
    -------
    data : TrainingData
    facts : dict
        ``grid_shape``, ``skull_stripped`` and ``statistics``, for the model's record, and
        ``moments``, the :class:`~l2s_pydra.steps.moments.Moments` of each group.

    Raises
    ------
    DatasetError
        If there is no image to learn from or to validate on, or several files are bad: the
        message lists all of them.
    """
    for role, use in (("learn", "to learn from"), ("validate", "to validate on")):
        if role not in roles:
            raise DatasetError(
                f"no labelled image {use}; name participants for it, or add a split column to "
                "participants.tsv"
            )
    tell = progress or (lambda *_: None)
    total = len(images) + len(label_maps)
    scans, problems = _load_all(
        [lambda i=i: _load_scan(images[i], labels[i], schemes) for i in range(len(images))],
        lambda done: tell("reading images", done, total),
    )
    if problems:
        raise _together([*problems, *_problems_of_maps(label_maps, schemes)])
    learn = [scan for scan, role in zip(scans, roles, strict=True) if role == "learn"]
    stripped = all(_is_stripped(scan) for scan in learn)
    shape = _grid_shape(learn, config, stripped=stripped)
    config = _without_flips(config, schemes)
    builder = _Builder(schemes=schemes, config=config, shape=shape, stripped=stripped)
    real = [builder.scan(scan, name) for scan, name in zip(scans, names, strict=True)]
    own = [builder.own_map(scan) for scan, role in zip(real, roles, strict=True) if role == "learn"]
    maps, problems = _load_all(
        [lambda path=path: builder.label_map(path) for path in label_maps],
        lambda done: tell("reading label maps", len(images) + done, total),
    )
    if problems:
        raise _together(problems)
    return builder.training_data(real, list(roles), maps, own)


def measure(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    names: Sequence[str],
    schemes: Schemes,
    config: LearnConfig,
) -> dict[str, list[Moments]]:
    """Measure the intensity groups that :func:`prepare` would make, in every image.

    Parameters
    ----------
    images, labels : sequences of Path
        Real images and their labels, in pairs.
    names : sequence of str
        Name of each image.
    schemes : Schemes
        The label schemes.
    config : LearnConfig
        What it says of the grid is used.

    Returns
    -------
    dict
        Group name to one entry for each image in which the group occurs.

    Raises
    ------
    DatasetError
        If there is no image, or several files are bad.
    """
    if not images:
        raise DatasetError("no labelled image to measure; give at least one with its labels")
    scans, problems = _load_all(
        [lambda i=i: _load_scan(images[i], labels[i], schemes) for i in range(len(images))],
        lambda _: None,
    )
    if problems:
        raise _together(problems)
    stripped = all(_is_stripped(scan) for scan in scans)
    shape = _grid_shape(scans, config, stripped=stripped)
    builder = _Builder(schemes=schemes, config=config, shape=shape, stripped=stripped)
    real = [builder.scan(scan, name) for scan, name in zip(scans, names, strict=True)]
    own = [builder.own_map(scan) for scan in real]
    return measure_moments(real, own, builder.tables(own), builder.factor)


def _without_flips(config: LearnConfig, schemes: Schemes) -> LearnConfig:
    """Turn mirroring off where a label of one side has no partner on the other."""
    tables = schemes.generation_tables()
    channel = np.array(tables["channel"])
    mirrored = np.array(schemes.target.opposite)[channel]
    if np.array_equal(channel[np.array(tables["swap"])], mirrored) and schemes.target.mirrors:
        return config
    logger.warning(
        "some labels are of one side only; images are not mirrored in training "
        "(name both sides alike, or fill the column side of the label table)"
    )
    return config.evolve(synthesis__flip=0.0)


def _load_all(loaders: Sequence[Any], tell: Any) -> tuple[list[Any], list[L2SError]]:
    """Run all loaders, whether some fail or not; return what they gave and what was wrong."""
    loaded, problems = [], []
    for done, load in enumerate(loaders, 1):
        try:
            loaded.append(load())
        except L2SError as error:
            problems.append(error)
        tell(done)
    return loaded, problems


def _together(problems: Sequence[L2SError]) -> L2SError:
    """One error for several."""
    if len(problems) == 1:
        return problems[0]
    listed = "; ".join(str(problem) for problem in problems)
    return DatasetError(f"{len(problems)} files cannot be used: {listed}")


def _problems_of_maps(paths: Sequence[Path], schemes: Schemes) -> list[L2SError]:
    """Find what is wrong with label maps, where the images are wrong already."""
    loaders = [lambda path=path: _load_map(path, schemes).box_mm() for path in paths]
    return _load_all(loaders, lambda _: None)[1]


def _load_scan(image: Path, labels: Path, schemes: Schemes) -> _Labelled:
    volume, truth = load_image(image), load_labels(labels)
    check_same_grid(volume, truth)
    channels = schemes.real_to_target[schemes.real.to_channels(truth.data, source=labels)]
    scan = _Labelled(labels=truth, channels=channels, structures=channels > 0, image=volume)
    scan.box_mm()
    return scan


def _load_map(path: Path, schemes: Schemes) -> _Labelled:
    volume = load_labels(path)
    channels = schemes.maps.to_channels(volume.data, source=path)
    structures = schemes.maps_to_target[channels] > 0
    return _Labelled(labels=volume, channels=channels, structures=structures)


def _grid_shape(
    scans: Sequence[_Labelled], config: LearnConfig, *, stripped: bool
) -> tuple[int, int, int]:
    """Room for the structures of every scan, in voxels that the network can halve."""
    multiple = _multiple(config)
    extents = [np.subtract(*reversed(scan.box_mm())) for scan in scans]
    voxels = (np.max(extents, 0) + 2 * _MARGIN_MM[stripped]) / config.spacing_mm
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


def _is_stripped(scan: _Labelled) -> bool:
    """Whether the image is black away from the labelled structures."""
    from scipy.ndimage import binary_dilation

    assert scan.image is not None
    data = scan.image.data
    low, high = data.min(), np.percentile(data[scan.structures], 99)
    step = tuple(max(1, round(4 / s)) for s in scan.image.spacing_mm)
    thin = tuple(slice(None, None, s) for s in step)
    near = binary_dilation(scan.structures[thin], iterations=4)
    away = (data[thin][~near] - low) / max(high - low, 1e-6)
    return bool(away.size == 0 or np.mean(away > _BLACK) < 0.02)


@attrs.frozen(kw_only=True, eq=False)
class _Builder:
    """Brings volumes to one training grid."""

    schemes: Schemes
    config: LearnConfig
    shape: tuple[int, int, int]
    stripped: bool

    @property
    def factor(self) -> int:
        return self.config.synthesis.oversampling

    def _conform(self, scan: _Labelled, *, fine: bool) -> Conform:
        low, high = scan.box_mm()
        factor = self.factor if fine else 1
        x, y, z = (n * factor for n in self.shape)
        return Conform.to_grid(
            scan.labels,
            self.config.spacing_mm / factor,
            shape=(x, y, z),
            center_mm=tuple((low + high) / 2),
        )

    def scan(self, scan: _Labelled, name: str) -> Any:
        """Bring a real scan to the working and the fine grid."""
        import torch

        from ..bilevel.training import RealScan
        from ..synthesis import intensity

        assert scan.image is not None
        # Beyond the field of view resampling fills with 0, which is to be the darkest value.
        data = scan.image.data - scan.image.data.min()
        fine = self._conform(scan, fine=True)
        kind = np.uint8 if len(self.schemes.target) < 256 else np.int16
        channels = torch.from_numpy(fine.labels(scan.channels.astype(kind)))
        return RealScan(
            name=name,
            voxel_mm=_voxel_mm(scan.image.affine),
            image=torch.from_numpy(self._conform(scan, fine=False).image(data)),
            target=channels
            if self.factor == 1
            else intensity.soft_labels(channels, len(self.schemes.target), self.factor),
            fine_image=torch.from_numpy(fine.image(data)),
            fine_channels=channels,
        )

    def label_map(self, path: Path) -> Array:
        """Read a label map as generation labels on the fine grid."""
        scan = _load_map(path, self.schemes)
        fine: Array = self._conform(scan, fine=True).labels(scan.channels)
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

    def own_map(self, scan: Any) -> Array:
        """Make generation labels of a learning scan: its own, and tissue that nobody labelled."""
        offset = len(self.schemes.maps)
        image, channels = _unit(scan), scan.fine_channels.numpy()
        # Air of whole heads is noise, not black: half the threshold between dark and bright.
        dark = _BLACK if self.stripped else max(_BLACK, _two_clusters(image)[0] / 2)
        tissue = (channels > 0) | (image > dark)
        labels = np.where(tissue, channels.astype(np.int16) + offset, 0)
        if self.config.synthesis.subclusters > 1:
            return self._with_subclusters(labels, image)
        for channel in range(1, len(self.schemes.target)):
            inside = channels == channel
            if inside.sum() > _TWO_TISSUES_SHARE * (channels > 0).sum():
                threshold, gap = _two_clusters(image[inside])
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

    def tables(self, maps: Sequence[Array]) -> dict[str, Any]:
        """Group, channel and opposite of each generation label; groups occur in some map."""
        tables = self.schemes.generation_tables(self.config.synthesis.subclusters)
        if self.stripped:
            _share_background(tables)
        return _only_present(tables, maps)

    def training_data(
        self, real: list[Any], roles: list[str], maps: list[Array], own: list[Array]
    ) -> tuple[Any, dict[str, Any]]:
        """Assemble what the trainer takes, and the facts for the model's record."""
        import torch

        from ..bilevel.training import TrainingData
        from ..synthesis import GenerationLabels, Synthesizer

        learn = [scan for scan, role in zip(real, roles, strict=True) if role == "learn"]
        tables = self.tables(own + maps)
        moments = measure_moments(learn, own, tables, self.factor)
        statistics = _statistics(moments, tables["group_names"])
        kind, small = (
            (np.uint8, torch.uint8) if len(tables["group"]) < 256 else (np.int16, torch.int16)
        )
        synthetic = [torch.from_numpy(np.ascontiguousarray(m.astype(kind))) for m in own + maps]
        which_own = list(range(len(own)))
        if self.config.segmenter.ndim == 2:
            synthetic, which_own = _slices_of_maps(synthetic, len(own), self.factor)
            learn = [piece for scan in learn for piece in _slices_of_scan(scan, self.factor)]
        labels = GenerationLabels(
            group=torch.tensor(tables["group"], dtype=small),
            channel=torch.tensor(tables["channel"], dtype=torch.int64),
            swap=torch.tensor(tables["swap"], dtype=small),
            group_names=tables["group_names"],
            n_channels=tables["n_channels"],
        )
        data = TrainingData(
            synthesizer=Synthesizer(
                label_maps=synthetic,
                labels=labels,
                config=self.config.synthesis,
                spacing_mm=self.config.spacing_mm,
                background_always=not self.stripped,
                acquisitions=[
                    _acquisition(scan.voxel_mm[: self.config.segmenter.ndim], self.config)
                    for scan in learn
                ],
            ),
            own=which_own,
            learn=learn,
            validate=[s for s, role in zip(real, roles, strict=True) if role == "validate"],
            statistics=statistics,
            opposite=self.schemes.target.opposite,
        )
        facts = {
            "grid_shape": list(self.shape),
            "skull_stripped": self.stripped,
            "statistics": {k: list(v) for k, v in statistics.items()},
            "moments": moments,
        }
        return data, facts


def _share_background(tables: dict[str, Any]) -> None:
    """Give all background tissue one group: near the brain there is little beside CSF."""
    names = tables["group_names"]
    unlabelled = names.index(UNLABELLED)
    tables["group"] = [
        unlabelled
        if group and not channel and not names[group].startswith(f"{UNLABELLED} (")
        else group
        for group, channel in zip(tables["group"], tables["channel"], strict=True)
    ]


def _voxel_mm(affine: Array) -> tuple[float, ...]:
    """Voxel size along the axes of the world: that of the image axis nearest to each.

    >>> _voxel_mm(np.array([[0, 0, 5.0, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]))
    (5.0, 1.0, 2.0)
    """
    columns = np.asarray(affine)[:3, :3]
    sizes = np.linalg.norm(columns, axis=0)
    return tuple(float(sizes[i]) for i in np.abs(columns / sizes).argmax(1))


def _acquisition(voxel_mm: Sequence[float], config: LearnConfig) -> tuple[float, ...]:
    """Voxel size in working voxels."""
    return tuple(round(max(1.0, size / config.spacing_mm), 3) for size in voxel_mm)


def _only_present(tables: dict[str, Any], maps: Sequence[Array]) -> dict[str, Any]:
    """Drop the groups that occur in no label map, so that theta has no idle entries."""
    present = {int(label) for labels in maps for label in np.unique(labels)}
    names = tables["group_names"]
    used = sorted({0} | {group for label, group in enumerate(tables["group"]) if label in present})
    return {
        **tables,
        "group": [used.index(group) if group in used else 0 for group in tables["group"]],
        "group_names": tuple(names[group] for group in used),
    }


def _statistics(
    moments: Mapping[str, Sequence[Moments]], names: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """Mean, standard deviation and grain of each group's working voxels, over the learning scans.

    Background groups of the label maps that no scan labels start where unlabelled tissue is.
    """
    found = {name: pooled(scans) for name, scans in moments.items()}
    rest = found.get(UNLABELLED)
    if rest is not None:
        found |= {name: rest for name in names[1:] if name not in found}
    return found


def _unit(scan: Any) -> Array:
    """Fine image of a scan, normalised."""
    from ..normalisation import normalise

    image: Array = normalise(scan.fine_image[None, None])[0, 0].numpy()
    return image


def _two_clusters(values: Array) -> tuple[float, float]:
    """Threshold between two clusters of intensities, and the distance of their means.

    Maximises the variance between the clusters (Otsu, IEEE Trans. SMC 1979).

    >>> values = np.r_[np.full(50, 0.2), np.full(150, 0.6)]
    >>> threshold, gap = _two_clusters(values)
    >>> bool(0.2 < threshold < 0.6), round(gap, 2)
    (True, 0.4)
    """
    counts, edges = np.histogram(values, bins=128)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    moment = np.cumsum(counts * middle)
    low, high = (
        moment[:-1] / np.maximum(below, 1),
        (moment[-1] - moment[:-1]) / np.maximum(above, 1),
    )
    between = below * above * (high - low) ** 2
    # The maximum is flat where bins are empty: take its middle.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    cut = int(best[len(best) // 2])
    return float(edges[cut + 1]), float((high - low)[cut])


def _slices_of_maps(maps: Sequence[Any], own: int, factor: int) -> tuple[list[Any], list[int]]:
    """Axial slices with enough tissue, and which of them are the learning participants' own."""
    slices: list[Any] = []
    which: list[int] = []
    for i, volume in enumerate(maps):
        middle = range(factor // 2, volume.shape[2], factor)
        shares = [float((volume[:, :, z] > 0).float().mean()) for z in middle]
        for z in _enough(shares, 0.05):
            if i < own:
                which.append(len(slices))
            slices.append(volume[:, :, middle[z]].contiguous())
    return slices, which


def _enough(shares: Sequence[float], enough: float) -> list[int]:
    """Slices of which structures fill enough, or as much as a quarter of the fullest one.

    >>> _enough([0.0, 0.01, 0.3, 0.4], 0.02), _enough([0.0, 0.001, 0.01, 0.0], 0.02)
    ([2, 3], [2])
    """
    least = min(enough, max(shares) / 4)
    return [i for i, share in enumerate(shares) if share > least]


def _slices_of_scan(scan: Any, factor: int) -> list[Any]:
    from ..targets import foreground

    shares = foreground(scan.target).mean((0, 1)).tolist()
    pieces = []
    for z in _enough(shares, 0.02):
        fine = z * factor + factor // 2
        pieces.append(
            attrs.evolve(
                scan,
                name=f"{scan.name}, slice {z}",
                image=scan.image[:, :, z].contiguous(),
                target=scan.target[..., z].contiguous(),
                fine_image=scan.fine_image[:, :, fine].contiguous(),
                fine_channels=scan.fine_channels[:, :, fine].contiguous(),
            )
        )
    return pieces
