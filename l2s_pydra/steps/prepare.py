"""From files to what training needs: scans and label maps on the training grid.

Every scan and label map is loaded once, checked (:mod:`~l2s_pydra.steps.check`), brought to the grid
once, and kept in memory, or in a folder for this and further trainings
(:mod:`~l2s_pydra.steps.conformed`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ..config import LearnConfig
from ..errors import ConfigError, DatasetError
from .check import leaks, report, shared_maps
from .conformed import Conformed
from .examine import Examiner, Problem
from .grid import GenerationMap, TrainingGrid, grid_shape
from .held_out import synthetic_scans
from .moments import Moments, measure_moments, pooled
from .schemes import UNLABELLED, Schemes
from .sources import Source

if TYPE_CHECKING:
    from ..bilevel.training import RealScan, TrainingData

__all__ = ["group_tables", "measure", "prepare"]

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


def prepare(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    names: Sequence[str],
    roles: Sequence[str],
    label_maps: Sequence[Path],
    schemes: Schemes,
    config: LearnConfig,
    validation_maps: Sequence[Path] = (),
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple["TrainingData", dict[str, Any]]:
    """Load everything, check it and bring it to the training grid.

    Parameters
    ----------
    images, labels : sequences of Path
        Real images and their labels, in pairs.
    names, roles : sequences of str
        Name of each image, and ``learn``, ``validate`` or ``test``. Images to test on are checked,
        so that no copy of one is trained on, and no more; those that cannot be used are logged.
    label_maps : sequence of Path
        Label maps for synthesis; the learning images' own are added.
    schemes : Schemes
        The label schemes.
    config : LearnConfig
        What it says of the grid, the generator and the network is used.
    validation_maps : sequence of Path, optional
        Without images, which only the mode ``synthseg`` can do: label maps whose synthetic images
        are validated on.
    cache_dir : Path, optional
        Folder that keeps what was read and brought to the grid; arrays in it are memory-mapped.
        The data are the same with and without it.
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
        If there is no image to learn from or to validate on, if images or labels of different roles
        are the same, or if several files are bad: the message lists all of them.
    ConfigError
        If there are no images, and the mode or the lack of label maps calls for some; or if there
        are images and label maps to validate on.
    L2SError
        If one file is bad.
    """
    tell = progress or (lambda *_: None)
    examiner = Examiner(schemes=schemes, store=Conformed(cache_dir))
    if not images:
        return _maps_only(examiner, label_maps, validation_maps, config, tell)
    if validation_maps:
        raise ConfigError(
            "validation_maps are for trainings without images; give images the role validate"
        )
    for role, use in (("learn", "to learn from"), ("validate", "to validate on")):
        if role not in roles:
            raise DatasetError(
                f"no labelled image {use}; name participants for it, or add a split column to "
                "participants.tsv"
            )
    total = len(images) + len(label_maps)
    scans, problems = _examined(
        examiner, images, labels, lambda done: tell("reading images", done, total), roles
    )
    for source, role in zip(scans, roles, strict=True):
        if role == "test" and source is not None:
            source.release()
    usable = not any(problem.is_error for problem in problems)
    config = _without_flips(config, schemes)
    grid = _grid(examiner, _of_role(scans, roles, "learn"), config) if usable else None
    maps, sources = [], []
    for done, path in enumerate(label_maps, len(images) + 1):
        source, found = examiner.label_map(path)
        problems += found
        sources.append(source)
        if source is not None:
            if grid is not None:
                maps.append(grid.label_map(source))
            source.release()
        tell("reading label maps", done, total)
    report([*problems, *leaks(scans, roles, sources)])
    assert grid is not None
    real, own = _on_grid(grid, scans, names, roles)
    return _training_data(grid, real, own, maps)


def _maps_only(
    examiner: Examiner,
    label_maps: Sequence[Path],
    validation_maps: Sequence[Path],
    config: LearnConfig,
    tell: Progress,
) -> tuple["TrainingData", dict[str, Any]]:
    """Prepare a training on whole heads that sees no real image."""
    if config.training.mode != "synthseg":
        raise ConfigError(
            f"mode {config.training.mode!r} needs labelled images; give some, or use the mode "
            "'synthseg', for which label maps suffice"
        )
    if not (label_maps and validation_maps):
        raise ConfigError(
            f"{len(label_maps)} label map(s) to synthesise from and {len(validation_maps)} to "
            "validate on are given; without images, one of each is needed at least"
        )
    paths, problems = [*label_maps, *validation_maps], []
    sources: list[Source | None] = []
    for done, path in enumerate(paths, 1):
        source, found = examiner.label_map(path)
        sources.append(source)
        problems += found
        if source is not None:
            source.release()
        tell("reading label maps", done, 2 * len(paths))
    first = len(label_maps)
    report([*problems, *shared_maps(sources[:first], sources[first:])])
    usable = [source for source in sources if source is not None]
    grid = TrainingGrid(
        schemes=examiner.schemes,
        tables=examiner.tables,
        config=_without_flips(config, examiner.schemes),
        shape=grid_shape(usable, config, stripped=False),
        stripped=False,
        store=examiner.store,
    )
    maps = []
    for done, source in enumerate(usable, len(paths) + 1):
        maps.append(grid.label_map(source))
        source.release()
        tell("bringing label maps to the grid", done, 2 * len(paths))
    data, facts = _training_data(
        grid, {"learn": [], "validate": []}, [], maps[:first], maps[first:]
    )
    names = [path.name.split(".")[0] for path in validation_maps]
    held_out = attrs.evolve(data.synthesizer, label_maps=[m.labels for m in maps[first:]])
    return attrs.evolve(data, validate=synthetic_scans(held_out, names)), facts


def measure(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    names: Sequence[str],
    schemes: Schemes,
    config: LearnConfig,
    cache_dir: Path | None = None,
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
    cache_dir : Path, optional
        As for :func:`prepare`.

    Returns
    -------
    dict
        Group name to one entry for each image in which the group occurs.

    Raises
    ------
    DatasetError
        If there is no image, or several files are bad.
    L2SError
        If one file is bad.
    """
    if not images:
        raise DatasetError("no labelled image to measure; give at least one with its labels")
    examiner = Examiner(schemes=schemes, store=Conformed(cache_dir))
    roles = ["learn"] * len(images)
    scans, problems = _examined(examiner, images, labels, lambda _: None, roles)
    report(problems)
    grid = _grid(examiner, _of_role(scans, roles, "learn"), config)
    real, own = _on_grid(grid, scans, names, roles)
    return _moments(grid, real["learn"], own, group_tables(grid, own))


def _examined(
    examiner: Examiner,
    images: Sequence[Path],
    labels: Sequence[Path],
    tell: Callable[[int], Any],
    roles: Sequence[str],
) -> tuple[list[Source | None], list[Problem]]:
    scans, problems = [], []
    for done, (image, truth, role) in enumerate(zip(images, labels, roles, strict=True), 1):
        source, found = examiner.scan(image, truth)
        scans.append(source)
        # No training reads an image to test on.
        problems += [problem.as_warning() for problem in found] if role == "test" else found
        tell(done)
    return scans, problems


def _of_role(scans: Sequence[Source | None], roles: Sequence[str], role: str) -> list[Source]:
    return [s for s, r in zip(scans, roles, strict=True) if r == role and s is not None]


def _grid(examiner: Examiner, learn: Sequence[Source], config: LearnConfig) -> TrainingGrid:
    stripped = all(source.facts.stripped for source in learn)
    return TrainingGrid(
        schemes=examiner.schemes,
        tables=examiner.tables,
        config=config,
        shape=grid_shape(learn, config, stripped=stripped),
        stripped=stripped,
        store=examiner.store,
    )


def _on_grid(
    grid: TrainingGrid, scans: Sequence[Source | None], names: Sequence[str], roles: Sequence[str]
) -> tuple[dict[str, list["RealScan"]], list[GenerationMap]]:
    """Bring the scans of each role but ``test`` to the grid; make maps of the learning ones."""
    real: dict[str, list[RealScan]] = {"learn": [], "validate": []}
    own = []
    for source, name, role in zip(scans, names, roles, strict=True):
        if source is None or role not in real:
            continue
        scan = grid.scan(source, name)
        source.release()
        real[role].append(scan)
        if role == "learn":
            own.append(grid.own_map(source, scan))
    return real, own


def _training_data(
    grid: TrainingGrid,
    real: Mapping[str, list["RealScan"]],
    own: list[GenerationMap],
    maps: list[GenerationMap],
    held_out: Sequence[GenerationMap] = (),
) -> tuple["TrainingData", dict[str, Any]]:
    """Assemble what the trainer takes, and the facts for the model's record."""
    import torch

    from ..bilevel.training import TrainingData
    from ..synthesis import GenerationLabels, Synthesizer

    config, learn = grid.config, real["learn"]
    tables = group_tables(grid, [*own, *maps, *held_out])
    moments = _moments(grid, learn, own, tables)
    statistics = _statistics(moments, tables["group_names"])
    small = torch.uint8 if grid.kind is np.uint8 else torch.int16
    synthetic, which_own = [m.labels for m in (*own, *maps)], list(range(len(own)))
    if config.segmenter.ndim == 2:
        synthetic, which_own = _slices_of_maps(synthetic, len(own), grid.factor)
        learn = [piece for scan in learn for piece in _slices_of_scan(scan, grid.factor)]
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
            config=config.synthesis,
            spacing_mm=config.spacing_mm,
            background_always=not grid.stripped,
            acquisitions=[
                _acquisition(scan.voxel_mm[: config.segmenter.ndim], config) for scan in learn
            ],
        ),
        own=which_own,
        learn=learn,
        validate=real["validate"],
        statistics=statistics,
        opposite=grid.schemes.target.opposite,
    )
    facts = {
        "grid_shape": list(grid.shape),
        "skull_stripped": grid.stripped,
        "statistics": {k: list(v) for k, v in statistics.items()},
        "moments": moments,
    }
    return data, facts


def _moments(
    grid: TrainingGrid,
    scans: Sequence["RealScan"],
    own: Sequence[GenerationMap],
    tables: Mapping[str, Any],
) -> dict[str, list[Moments]]:
    return measure_moments(scans, [m.labels.numpy() for m in own], tables, grid.factor)


def group_tables(grid: TrainingGrid, maps: Sequence[GenerationMap]) -> dict[str, Any]:
    """Return group, channel and opposite of each generation label; groups occur in some map."""
    tables = grid.schemes.generation_tables(grid.config.synthesis.subclusters)
    if grid.stripped:
        _share_background(tables)
    return _only_present(tables, maps)


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


def _acquisition(voxel_mm: Sequence[float], config: LearnConfig) -> tuple[float, ...]:
    """Voxel size in working voxels."""
    return tuple(round(max(1.0, size / config.spacing_mm), 3) for size in voxel_mm)


def _only_present(tables: dict[str, Any], maps: Sequence[GenerationMap]) -> dict[str, Any]:
    """Drop the groups that occur in no label map, so that theta has no idle entries."""
    present = {label for labels in maps for label in labels.present}
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
