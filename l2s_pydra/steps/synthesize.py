"""Synthetic images from label maps: NIfTI files, their labels, and the record of each draw."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from .. import __version__
from ..config import LearnConfig
from ..errors import ConfigError, DatasetError
from .check import report
from .device import computing_on
from .examine import Examiner
from .generator_file import read_generator
from .grid import TrainingGrid, grid_shape
from .prepare import group_tables
from .schemes import Schemes, read_schemes
from .sources import Source
from .train import with_synthesis

if TYPE_CHECKING:
    import torch

    from ..augmentation import Augmentation
    from ..synthesis import SynthesisDraw, Synthesizer

__all__ = ["Synthesized", "synthesize"]

logger = logging.getLogger(__name__)

_LEARNED_STREAM = 6


@attrs.frozen(kw_only=True)
class Synthesized:
    """What :func:`synthesize` wrote; of each list, one entry an image."""

    images: tuple[Path, ...]
    """``<prefix>-<seed>_image.nii.gz``, float32, about [0, 1]."""
    labels: tuple[Path, ...]
    """``<prefix>-<seed>_dseg.nii.gz`` on the same grid, with the indices of ``table``."""
    draws: tuple[Path, ...]
    """``<prefix>-<seed>_draw.json``: everything random, and what it was rendered with."""
    table: Path
    """``dseg.tsv`` of the labels."""


def synthesize(
    *,
    label_maps: Sequence[Path],
    maps_table: Path,
    out_dir: Path,
    count: int = 10,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    generator: Path | None = None,
    theta: Path | None = None,
    priors: Path | None = None,
    target_table: Path | None = None,
    label_mapping: Path | None = None,
    learned_share: float | None = None,
    skull_stripped: bool | None = None,
    prefix: str = "synth",
    device: str = "auto",
    threads: int | None = None,
) -> Synthesized:
    """Draw images from label maps, as a training would, and write them.

    Image ``i`` has the seed ``seed + i``, which decides everything about it: the same files come out
    whether they are asked for together or one by one. Label maps take turns.

    Parameters
    ----------
    label_maps : sequence of Path
        Label maps.
    maps_table : Path
        BIDS ``dseg.tsv`` of them.
    out_dir : Path
        Where the files go; made if need be.
    count : int, default=10
        How many images.
    seed : int, default=0
        Seed of the first.
    config : mapping, optional
        A :class:`~l2s_pydra.config.LearnConfig` as a dict: voxel size, ranges and augmentation; the
        defaults otherwise. ``synthesis.crop`` does not count: images are whole.
    generator, theta, priors : Path, optional
        A synthesis that was learned or measured (:func:`~l2s_pydra.steps.train.with_synthesis`). With
        ``generator`` the voxel size is the one it was learned at.
    target_table : Path, optional
        BIDS ``dseg.tsv`` of the labels to write; by default ``maps_table``, merged by its column
        ``mapping`` if it has one. Groups of intensities are
        named after its structures: give that of the training from which ``generator`` came.
    label_mapping : Path, optional
        TSV with the columns ``index`` and ``mapping``, from ``label_maps`` to the labels to write.
    learned_share : float, optional
        Share of images drawn from learned values, where there are any; otherwise
        ``1 - training.wide_share``. Augmentations that do not replace intensities make all images.
    skull_stripped : bool, optional
        Whether tissue far from the structures is left out; as the generator says, else no.
    prefix : str, default="synth"
        Begins the names of the files.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
    threads : int, optional
        CPU threads.

    Returns
    -------
    Synthesized

    Raises
    ------
    L2SError
        If a file, a table or a setting cannot be used.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, not {seed}")
    if learned_share is not None and not 0 <= learned_share <= 1:
        raise ConfigError(f"learned_share must be between 0 and 1, not {learned_share}")
    if not label_maps:
        raise DatasetError("there is no label map to make images from; give at least one")
    known = read_generator(Path(generator)) if generator is not None else {}
    settings = _settings(config, known, generator, theta, priors)
    if skull_stripped is None:
        skull_stripped = bool(known.get("skull_stripped", False))
    schemes = read_schemes(target_table or maps_table, maps_table, label_mapping)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with computing_on(device, threads) as chosen:
        made = _Generator.of(settings, schemes, label_maps, stripped=skull_stripped, device=chosen)
        if learned_share is None:
            learned_share = 1.0 - settings.training.wide_share
        files = [
            made.write(number, out_dir, prefix, learned_share)
            for number in range(seed, seed + count)
        ]
    images, labels, draws = zip(*files, strict=True)
    table = out_dir / "dseg.tsv"
    schemes.target.write(table)
    logger.info("%d synthetic images: %s", count, out_dir)
    return Synthesized(images=images, labels=labels, draws=draws, table=table)


def _settings(
    config: Mapping[str, Any] | None,
    known: Mapping[str, Any],
    generator: Path | None,
    theta: Path | None,
    priors: Path | None,
) -> LearnConfig:
    settings = LearnConfig.from_dict(config or {})
    if known:
        settings = settings.evolve(spacing_mm=known["spacing_mm"])
    settings = with_synthesis(settings, generator=generator, theta=theta, priors=priors)
    if settings.synthesis.channels > 1:
        raise ConfigError(
            f"images of {settings.synthesis.channels} contrasts cannot be written; "
            "set synthesis.channels to 1"
        )
    return settings.evolve(synthesis__crop=None, segmenter__ndim=3)


@attrs.frozen(kw_only=True, eq=False)
class _Generator:
    """Everything that images are made with."""

    settings: LearnConfig
    schemes: Schemes
    sources: Sequence[Source]
    affines: Sequence[Any]
    synthesizer: "Synthesizer"
    augmentation: "Augmentation | None"
    device: "torch.device"

    @classmethod
    def of(
        cls,
        settings: LearnConfig,
        schemes: Schemes,
        label_maps: Sequence[Path],
        *,
        stripped: bool,
        device: "torch.device",
    ) -> "_Generator":
        import torch

        from ..synthesis import GenerationLabels, Synthesizer

        examiner = Examiner(schemes=schemes)
        sources, problems = [], []
        for path in label_maps:
            source, found = examiner.label_map(Path(path))
            problems += found
            if source is not None:
                source.release()
                sources.append(source)
        report(problems)
        grid = TrainingGrid(
            schemes=schemes,
            tables=examiner.tables,
            config=settings,
            shape=grid_shape(sources, settings, stripped=stripped),
            stripped=stripped,
        )
        maps, affines = [], []
        for source in sources:
            maps.append(grid.label_map(source))
            affines.append(grid.affine(source))
            source.release()
        tables = group_tables(grid, maps)
        small = torch.uint8 if grid.kind is np.uint8 else torch.int16
        labels = GenerationLabels(
            group=torch.tensor(tables["group"], dtype=small),
            channel=torch.tensor(tables["channel"], dtype=torch.int64),
            swap=torch.tensor(tables["swap"], dtype=small),
            group_names=tables["group_names"],
            n_channels=tables["n_channels"],
        )
        return cls(
            settings=settings,
            schemes=schemes,
            sources=sources,
            affines=affines,
            synthesizer=Synthesizer(
                label_maps=[m.labels for m in maps],
                labels=labels,
                config=settings.synthesis,
                spacing_mm=settings.spacing_mm,
                background_always=not stripped,
            ),
            augmentation=_augmentation(settings, labels.group_names, device),
            device=device,
        )

    def learned(self, seed: int, share: float) -> bool:
        """Whether an image is drawn from learned values."""
        if self.augmentation is None:
            return False
        if not self.augmentation.replaces_intensities:
            return True
        return bool(np.random.default_rng([seed, _LEARNED_STREAM]).random() < share)

    def draw(self, seed: int, *, learned: bool) -> "SynthesisDraw":
        """Draw one image."""
        neutral = learned and self.augmentation is not None
        return self.synthesizer.draw(
            seed,
            label_map=seed % len(self.sources),
            appearance=not (neutral and self.augmentation.replaces_intensities),  # type: ignore[union-attr]
        )

    def render(self, draw: "SynthesisDraw", *, learned: bool) -> tuple[Any, Any]:
        """Image and labels of a draw, (X, Y, Z) arrays."""
        import torch

        from ..targets import as_classes

        with torch.no_grad():
            sample = self.synthesizer.render([draw], self.device)
            image = self.augmentation(sample) if learned and self.augmentation else sample.image
        classes = as_classes(sample.target[0]).cpu().numpy()
        return image[0, 0].cpu().numpy(), self.schemes.target.to_indices(classes)

    def write(
        self, seed: int, folder: Path, prefix: str, learned_share: float
    ) -> tuple[Path, Path, Path]:
        """Write one image, its labels and its record."""
        from ..images.saving import save_float, save_labels
        from ..images.volume import Volume

        learned = self.learned(seed, learned_share)
        draw = self.draw(seed, learned=learned)
        image, labels = self.render(draw, learned=learned)
        paths = [
            folder / f"{prefix}-{seed:04d}_{what}"
            for what in ("image.nii.gz", "dseg.nii.gz", "draw.json")
        ]
        affine = self.affines[draw.label_map]
        like = Volume(data=image, affine=affine, header=None, path=paths[0])
        save_float(paths[0], image, like)
        save_labels(paths[1], labels, like)
        record = self.record(draw, learned=learned)
        paths[2].write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return paths[0], paths[1], paths[2]

    def record(self, draw: "SynthesisDraw", *, learned: bool) -> dict[str, Any]:
        """Describe an image so that it can be rendered again."""
        synthesizer, settings = self.synthesizer, self.settings
        return {
            "format": "l2s_pydra draw",
            "version": __version__,
            "seed": draw.seed,
            "label_map": self.sources[draw.label_map].labels.name,
            "spacing_mm": settings.spacing_mm,
            "shape": list(synthesizer.image_shape),
            "affine": self.affines[draw.label_map].tolist(),
            "skull_stripped": not synthesizer.background_always,
            "groups": list(synthesizer.labels.group_names),
            "learned": learned,
            "augmentation": {
                "name": settings.augmentation.name,
                "theta": self.augmentation.describe(),
            }
            if learned and self.augmentation
            else None,
            "synthesis": attrs.asdict(settings.synthesis),
            "summary": draw.summary(
                spacing_mm=settings.spacing_mm, oversampling=settings.synthesis.oversampling
            ),
            "draw": json.loads(draw.to_json()),
        }


def _augmentation(
    settings: LearnConfig, group_names: Sequence[str], device: "torch.device"
) -> "Augmentation | None":
    """Return the augmentation at the values that are given; None if none are."""
    chosen = settings.augmentation
    if chosen.theta is None:
        return None
    from ..augmentation import build_augmentation

    augmentation = build_augmentation(
        chosen.name, ndim=3, group_names=group_names, options=chosen.options
    )
    augmentation.restore(chosen.theta)
    return augmentation.to(device)
