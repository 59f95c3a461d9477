"""Look before you learn: draws of the generator beside the scans they shall resemble."""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..config import LearnConfig, SynthesisConfig, field_doc
from ..errors import ConfigError
from ..reports.inputs import Figure, Picture, Sheet
from .device import computing_on
from .given import check_lists, check_roles, unique_names
from .prepare import prepare
from .priors import check_priors, fit_priors, write_priors
from .schemes import read_schemes

if TYPE_CHECKING:
    from ..augmentation import Augmentation
    from ..bilevel.batches import Batches, TrainingData
    from ..labels import LabelScheme

__all__ = ["preview"]

logger = logging.getLogger(__name__)

_GLANCE = 3
"""Images of each kind that are shown side by side at the top."""
_FIGURE_PX = 720
_TITLES = {
    "learned": (
        "Draws of the augmentation at its start",
        "What the segmenter sees of the appearance that is learned, before anything was learned: "
        "the augmentation was only matched to the real scans.",
    ),
    "wide": (
        "Draws of the generator's wide ranges",
        "What the segmenter sees in the other draws, so that it serves scans of other contrasts too.",
    ),
    "augmented": (
        "Augmented real scans",
        "What the segmenter sees of the real scans, deformed and with another appearance.",
    ),
    "real": (
        "Real scans",
        "The scans to learn from, as the segmenter sees them in the outer loss: on the working "
        "grid, normalised.",
    ),
}

_MADE: dict[str, tuple[str, ...]] = {
    "learn2synth": ("learned", "wide"),
    "learn2synth-mixed": ("learned", "wide", "augmented"),
    "synthseg": ("wide",),
    "supervised": ("augmented",),
    **dict.fromkeys(
        ("mixed", "mixed-randomised", "finetuned", "finetuned-averaged"), ("wide", "augmented")
    ),
}
"""Kinds of images that the segmenter is trained on, by mode."""

_Image = tuple[Any, Any, dict[str, float | str]]
"""Image and labels as arrays (*S,), and what is written under them."""


def preview(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    participants: Sequence[str],
    roles: Sequence[str],
    label_maps: Sequence[Path],
    real_table: Path,
    config: Mapping[str, Any],
    out_dir: Path,
    count: int = 12,
    maps_table: Path | None = None,
    label_mapping: Path | None = None,
    validation_maps: Sequence[Path] = (),
    cache_dir: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Path:
    """Do everything up to the training, and show what it would train on.

    Parameters
    ----------
    images, labels, participants, roles, label_maps, real_table, config, maps_table, label_mapping
        Those of :func:`~l2s_pydra.steps.learn.learn`.
    validation_maps, cache_dir : optional
        Those of :func:`~l2s_pydra.steps.learn.learn`.
    out_dir : Path
        Folder of the page; replaced as a whole if it is there.
    count : int, default=12
        Draws of each kind. They are those of the first steps of the training.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
    threads : int, optional
        CPU threads.

    Returns
    -------
    Path
        ``out_dir/index.html``; beside it ``figures`` and the priors of the learning scans
        (:mod:`~l2s_pydra.steps.priors`).

    Raises
    ------
    L2SError
        If a file, a table or a setting cannot be used.
    """
    if count < 1:
        raise ConfigError(f"a preview shows at least 1 draw, not {count}")
    check_lists(len(images), labels=labels, participants=participants, roles=roles)
    check_roles(participants, roles)
    settings = LearnConfig.from_dict(config)
    schemes = read_schemes(real_table, maps_table, label_mapping)
    with computing_on(device, threads) as chosen:
        data, facts = prepare(
            images=images,
            labels=labels,
            names=unique_names(participants, images),
            roles=roles,
            label_maps=label_maps,
            validation_maps=validation_maps,
            schemes=schemes,
            config=settings,
            cache_dir=cache_dir,
        )
        check_priors(settings.synthesis.priors, data.synthesizer.labels.group_names)
        shown = _Shown.of(settings, data, schemes.target, chosen)
        out_dir = Path(out_dir)
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".preview-", dir=out_dir.parent))
        try:
            if facts["moments"]:
                write_priors(fit_priors(facts["moments"]), folder)
            _write(shown, facts, count, folder)
            folder.chmod(0o755)
            if out_dir.exists():
                shutil.rmtree(out_dir)
            folder.replace(out_dir)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    logger.info("%d draws of each kind: %s", count, out_dir / "index.html")
    return out_dir / "index.html"


@attrs.frozen(kw_only=True, eq=False)
class _Shown:
    """Everything that the page is made from."""

    settings: LearnConfig
    data: "TrainingData"
    scheme: "LabelScheme"
    batches: "Batches"
    augmentation: "Augmentation"

    @classmethod
    def of(
        cls, settings: LearnConfig, data: "TrainingData", scheme: "LabelScheme", device: Any
    ) -> "_Shown":
        import torch

        from ..augmentation import build_augmentation
        from ..bilevel.batches import Batches

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.training.seed)
            augmentation = build_augmentation(
                settings.augmentation.name,
                ndim=settings.segmenter.ndim,
                group_names=data.synthesizer.labels.group_names,
                options=settings.augmentation.options,
            )
        if data.statistics:
            augmentation.start(data.statistics)
        if settings.augmentation.theta is not None:
            augmentation.restore(settings.augmentation.theta)
        one = attrs.evolve(settings.training, batch_size=1)
        return cls(
            settings=settings,
            data=data,
            scheme=scheme,
            batches=Batches(config=one, data=data, device=device),
            augmentation=augmentation.to(device),
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of images that a training in this mode makes, and the real ones."""
        mode = self.settings.training.mode
        made = _MADE.get(mode, ("learned", "wide", "augmented"))
        if self.settings.augmentation.theta is not None and "wide" in made:
            made = ("learned", *(kind for kind in made if kind != "learned"))
        if not self.augmentation.replaces_intensities and "wide" in made:
            # It acts on every synthetic image, whatever the mode.
            made = ("learned", *(kind for kind in made if kind not in ("learned", "wide")))
        return (*made, "real") if self.data.learn else made

    def images(self, kind: str, count: int) -> Iterator[_Image]:
        """Draw images of a kind."""
        if kind == "real":
            yield from self._real(count)
            return
        for step in range(count):
            yield self._augmented(step) if kind == "augmented" else self._drawn(kind, step)

    def _drawn(self, kind: str, step: int) -> _Image:
        import torch

        from ..targets import as_classes

        learned = kind == "learned"
        neutral = learned and self.augmentation.replaces_intensities
        with torch.no_grad():
            sample = self.batches.sample(step, appearance=not neutral)
            image = self.augmentation(sample) if learned else sample.image
        values = sample.draws[0].summary(
            spacing_mm=self.settings.spacing_mm, oversampling=sample.oversampling
        )
        return image[0, 0].cpu().numpy(), as_classes(sample.target[0]).cpu().numpy(), values

    def _augmented(self, step: int) -> _Image:
        from ..bilevel.schedule import REMAPPED
        from ..targets import as_classes

        training = self.settings.training
        remapped = training.remap_share if training.mode in REMAPPED else 0.0
        image, target = self.batches.real(step, 1, augmented=True, remapped=remapped)
        return image[0, 0].cpu().numpy(), as_classes(target[0]).cpu().numpy(), {}

    def _real(self, count: int) -> Iterator[_Image]:
        from ..normalisation import normalise
        from ..targets import as_classes

        scans = self.data.learn
        chosen = [scans[i * len(scans) // count] for i in range(count)]
        for scan in chosen if len(scans) > count else scans:
            image = normalise(scan.image[None, None])[0, 0]
            yield image.numpy(), as_classes(scan.target).numpy(), {"scan": scan.name}


def _write(shown: _Shown, facts: Mapping[str, Any], count: int, folder: Path) -> None:
    """Draw the figures and write the page."""
    from ..reports.figures import SampleImage, sample_mosaic
    from ..reports.intervals import prior_intervals
    from ..reports.pages import preview_page

    sheets, glance = [], []
    for kind in shown.kinds:
        images = list(shown.images(kind, count))
        sheets.append(_sheet(shown, kind, images, folder))
        glance += [
            SampleImage(kind, image.reshape(volume), shown.scheme.to_indices(marks.reshape(volume)))
            for image, marks, _ in images[:_GLANCE]
            for volume in [(*image.shape, 1)[:3]]
        ]
    figures = folder / "figures"
    sample_mosaic(glance, shown.scheme, figures / "glance.png", alpha=0.0)
    priors = None
    if (folder / "priors.tsv").is_file():
        prior_intervals(folder / "priors.tsv", figures / "priors.png")
        priors = _figure(
            "figures/priors.png",
            "Interval of the intensity of each group; the numbers are in priors.tsv",
            "Intensity of each group in the real scans (number of scans in brackets), on the "
            "normalised scale. Later runs draw around it with --set synthesis.priors=@priors.json.",
        )
    preview_page(
        folder / "index.html",
        glance=_figure(
            "figures/glance.png",
            "Middle slices of drawn and of real images, side by side",
            "Middle slices, plain above and with the outlines of the labels below.",
        ),
        priors=priors,
        sheets=sheets,
        theta=shown.augmentation.describe() if "learned" in shown.kinds else {},
        settings=_settings(shown.settings),
        facts=_facts(shown, facts),
    )


def _sheet(shown: _Shown, kind: str, images: Sequence[_Image], folder: Path) -> Sheet:
    from ..reports.colors import label_colors
    from ..reports.sheets import draw_sheet

    title, explanation = _TITLES[kind]
    colors = dict(enumerate(label_colors(shown.scheme)))
    pictures: list[Picture] = []
    for number, (image, marks, values) in enumerate(images, 1):
        name = f"figures/{kind}-{number:02d}.png"
        draw_sheet([image], [marks], [""], folder / name, colors=colors, width_px=_FIGURE_PX)
        words = ", ".join(f"{key}: {_short(value)}" for key, value in values.items())
        pictures.append(
            {"href": name, "alt": f"{title}, number {number}. {words}", "values": values}
        )
    return {"id": kind, "title": title, "explanation": explanation, "pictures": pictures}


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _figure(href: str, alt: str, caption: str) -> Figure:
    return {"href": href, "alt": alt, "caption": caption}


def _settings(settings: LearnConfig) -> list[dict[str, Any]]:
    """Name, value and meaning of everything that decides how a synthetic image looks."""
    rows: list[dict[str, Any]] = [
        {
            "name": "spacing_mm",
            "value": settings.spacing_mm,
            "meaning": field_doc(LearnConfig, "spacing_mm"),
        }
    ]
    values = attrs.asdict(settings.synthesis)
    rows += [
        {"name": f"synthesis.{name}", "value": value, "meaning": field_doc(SynthesisConfig, name)}
        for name, value in values.items()
    ]
    training = settings.training
    for name in ("mode", "wide_share", "own_label_share", "seed"):
        meaning = field_doc(type(training), name)
        rows.append(
            {"name": f"training.{name}", "value": getattr(training, name), "meaning": meaning}
        )
    chosen = settings.augmentation
    for name in ("name", "options"):
        meaning = field_doc(type(chosen), name)
        rows.append(
            {"name": f"augmentation.{name}", "value": getattr(chosen, name), "meaning": meaning}
        )
    return rows


def _stripped(settings: LearnConfig, facts: Mapping[str, Any]) -> str:
    if facts["skull_stripped"]:
        return "yes"
    share = settings.synthesis.strip_share
    return f"{share:.0%} of the synthetic images" if share else "no"


def _facts(shown: _Shown, facts: Mapping[str, Any]) -> dict[str, str]:
    data, spacing = shown.data, shown.settings.spacing_mm
    size = " x ".join(map(str, data.synthesizer.image_shape))
    own, maps = len(set(data.own)), len(data.synthesizer.label_maps)
    unit = "slices" if shown.settings.segmenter.ndim == 2 else "scans"
    return {
        "Working grid": f"{size} voxels of {spacing:g} mm",
        "Real images": f"{len(data.learn)} {unit} to learn from, {len(data.validate)} scans to "
        "validate on"
        if data.learn
        else f"none; {len(data.validate)} synthetic ones of held-out label maps to validate on",
        "Label maps": f"{maps}, {own} of them of the learning participants",
        "Skull-stripped": _stripped(shown.settings, facts),
        "Intensity groups": ", ".join(data.synthesizer.labels.group_names[1:]),
    }
