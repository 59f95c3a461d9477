"""Write the page of a model and draw its figures."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError, LabelError, ModelError
from ..labels import LabelScheme
from ..reports.colors import hex_color, label_colors
from ..reports.curves import learned_values, theta_over_time, training_curves
from ..reports.figures import SampleImage, sample_mosaic
from ..reports.inputs import Figure, ModelSummary, Role, SettingBlock
from ..reports.intervals import prior_intervals
from ..reports.pages import model_page
from ..reports.tables import read_rows
from ..reports.verdicts import correlation_map, learned_verdicts

__all__ = ["report_model"]

_MODEL_FILES = {
    "weights.safetensors": "weights of the segmenter",
    "config.json": "settings and facts",
    "labels.tsv": "labels, in the order of the channels",
    "training.tsv": "log of the training",
    "splits.tsv": "who learned and who validated",
    "theta.json": "what the augmentation learned",
    "identifiability.json": "which of it the data determine",
    "estimator.json": "how its gradient was computed, and why so",
    "generator.json": "the generator in plain values, for other software",
    "priors.json": "intensities of the groups, for synthesis.priors of a later run",
    "priors.tsv": "the same as a table",
    "priors_columns.json": "what its columns mean",
    "MODELCARD.md": "the model in words",
}
_SETTINGS = {
    "Training": {
        "Steps": "learn.training.steps",
        "Best step": "best_step",
        "Synthetic images a step": "learn.training.batch_size",
        "Real images a step": "learn.training.real_batch_size",
        "Loss": "learn.training.loss",
        "Optimiser": "learn.training.optimizer",
        "Learning rate": "learn.training.learning_rate",
        "Schedule": "learn.training.schedule",
        "Hypergradient": "estimator",
        "Skipped steps": "skipped_steps",
        "Precision": "learn.training.precision",
        "Seed": "learn.training.seed",
        "Device": "device",
    },
    "Synthesis": {
        "Augmentation": "learn.augmentation.name",
        "Hypergradient": "learn.training.estimator",
        "Hypergradient every (steps)": "learn.training.hypergradient_every",
        "Learning rate of the augmentation": "learn.training.theta_learning_rate",
        "Steps before it first moves": "learn.training.theta_warmup_steps",
        "Share of wide draws": "learn.training.wide_share",
        "Share of the learners' own label maps": "learn.training.own_label_share",
        "Oversampling": "learn.synthesis.oversampling",
    },
    "Network and grid": {
        "Dimensions": "learn.segmenter.ndim",
        "Working voxel size (mm)": "learn.spacing_mm",
        "Parameters": "parameters",
        "First width": "learn.segmenter.width",
        "Levels": "learn.segmenter.depth",
        "Activation": "learn.segmenter.activation",
        "Normalisation": "learn.segmenter.norm",
        "Skull-stripped images": "skull_stripped",
    },
}
_LEARNED_ONLY = (
    "learn.augmentation.name",
    "estimator",
    "learn.training.estimator",
    "learn.training.hypergradient_every",
    "learn.training.theta_learning_rate",
    "learn.training.theta_warmup_steps",
    "learn.training.wide_share",
)
_ROLES = {
    "learn": ("Learned from", "Participants whose labelled scans took part in training."),
    "validate": ("Validated on", "Participants whose scans chose the weights that were kept."),
}
_SAMPLES = {
    "learn2synth": {"learned": ("synthetic, learned", 3), "wide": ("synthetic, wide", 2)},
    "learn2synth-mixed": {"learned": ("synthetic, learned", 3), "wide": ("synthetic, wide", 2)},
    **{
        mode: {"wide": ("synthetic", 4)}
        for mode in ("synthseg", "mixed", "mixed-randomised", "finetuned", "finetuned-averaged")
    },
}
_REAL_SAMPLES = {"real": ("real", 3)}


def report_model(model_dir: Path, out_file: Path) -> Path:
    """Write the page of a model and, in ``figures`` beside it, its pictures.

    Parameters
    ----------
    model_dir : Path
        Model folder, as :func:`l2s_pydra.steps.learn.learn` writes it. Only ``config.json``,
        ``labels.tsv`` and the weights must be there.
    out_file : Path
        Page to write.

    Returns
    -------
    Path
        ``out_file``.

    Raises
    ------
    ModelError
        If the folder is broken.
    """
    folder, out_file = Path(model_dir), Path(out_file)
    config = _read_json(folder / "config.json")
    try:
        scheme = LabelScheme.read(folder / "labels.tsv")
        mode = str(config["learn"]["training"]["mode"])
        theta = _theta(folder, mode)
        model = _model_summary(folder, config, scheme, mode, theta)
        figures = _Figures(folder, out_file)
        learned = mode.startswith("learn2synth")
        facts = _identifiability(folder) if learned else None
        return model_page(
            model,
            out_file,
            curves=figures.training(),
            theta_figures=figures.theta(theta) if learned else (),
            determined=learned_verdicts(facts) if facts else None,
            correlations=figures.correlations(facts) if facts else None,
            priors=figures.priors(),
            samples=figures.samples(scheme, _SAMPLES.get(mode, {}) | _REAL_SAMPLES),
            files=[
                {"href": figures.link(folder / name), "text": text}
                for name, text in _MODEL_FILES.items()
                if (folder / name).is_file()
            ],
        )
    except (KeyError, TypeError, AttributeError, LabelError, DatasetError) as error:
        raise ModelError(
            f"{folder}: cannot be reported ({error}); copy the model folder whole, "
            "or learn the model again"
        ) from error


class _Figures:
    """Pictures of a model, drawn into ``figures`` beside its page."""

    def __init__(self, folder: Path, page: Path) -> None:
        self.folder, self.page = folder, page
        self.places = page.parent / "figures"

    def link(self, path: Path) -> str:
        """Path relative to the page."""
        return Path(os.path.relpath(path, self.page.parent)).as_posix()

    def training(self) -> Figure | None:
        """Losses and validation, if there is a log."""
        table = self.folder / "training.tsv"
        if not table.is_file():
            return None
        return {
            "href": self.link(training_curves(table, self.places / "training.png")),
            "alt": "Loss on synthetic and real images, validation Dice and gradient norms by step.",
            "caption": "Loss on synthetic and, where it was computed, on real images (faint: each "
            "measurement; strong: running mean); Dice on the validation participants, the best "
            "one circled; norm of the gradient of the segmenter and of the augmentation.",
        }

    def theta(self, theta: Mapping[str, Mapping[str, float]]) -> list[Figure]:
        """Learned values: where they began and ended, and their way."""
        figures: list[Figure] = []
        dots = learned_values(theta, self.places / "theta_values.png")
        if dots:
            figures.append(
                {
                    "href": self.link(dots),
                    "alt": "Start and learned value of each quantity; the same numbers are in the "
                    "tables below.",
                    "caption": "Where each value started (hollow) and what was learned (filled).",
                }
            )
        table = self.folder / "training.tsv"
        lines = theta_over_time(table, self.places / "theta.png") if table.is_file() else None
        if lines:
            figures.append(
                {
                    "href": self.link(lines),
                    "alt": "Each learned value by training step; start and end are in the tables "
                    "below.",
                    "caption": "Learned values by step. Intensities are on a scale from 0 to 1.",
                }
            )
        return figures

    def correlations(self, facts: Mapping[str, Any]) -> Figure | None:
        """Correlations of the gradients of the learned values, if there are several."""
        path = correlation_map(facts, self.places / "correlations.png")
        if path is None:
            return None
        return {
            "href": self.link(path),
            "alt": "Correlations between the gradients of the learned values; those that are called "
            "together are named in the table.",
            "caption": "Correlation of the changes of two values' gradients from step to step: near 1 "
            "or \N{MINUS SIGN}1 only a combination of the two is determined. Values that are called "
            "together are framed.",
        }

    def priors(self) -> Figure | None:
        """Intensities of the groups in the real scans, if they were measured."""
        table = self.folder / "priors.tsv"
        if not table.is_file():
            return None
        return {
            "href": self.link(prior_intervals(table, self.places / "priors.png")),
            "alt": "Mean intensity of each group and its intervals; the numbers are in priors.tsv.",
            "caption": "Intensity of each group in the scans that were learned from (number of "
            "scans in brackets), on the normalised scale. A later run draws around it with "
            "--set synthesis.priors=@priors.json.",
        }

    def samples(self, scheme: LabelScheme, wanted: Mapping[str, tuple[str, int]]) -> list[Figure]:
        """Synthetic images beside real ones, if the folder has any."""
        samples: list[SampleImage] = []
        for kind, (title, count) in wanted.items():
            path = self.folder / "samples" / f"{kind}.npz"
            if path.is_file():
                samples += _read_samples(path, scheme, title, count)
        if not samples:
            return []
        path = sample_mosaic(samples, scheme, self.places / "samples.png")
        titles = ", ".join(dict.fromkeys(sample.title for sample in samples))
        return [
            {
                "href": self.link(path),
                "alt": f"Middle slices of images ({titles}), plain and with their labels.",
                "caption": "Middle slices on the working grid, plain above and with labels below. "
                "Real images come from the participants that were learned from.",
            }
        ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: cannot be read ({error}); copy the model folder whole, "
            "or learn the model again"
        ) from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: holds no settings of a model; learn the model again")
    return values


def _theta(folder: Path, mode: str) -> dict[str, dict[str, float]]:
    """Start, average and final values; empty if nothing was learned."""
    if not mode.startswith("learn2synth") or not (folder / "theta.json").is_file():
        return {}
    values = _read_json(folder / "theta.json")
    return {
        kind: {k: v for k, v in (values.get(kind) or {}).items() if v is not None}
        for kind in ("start", "average", "final")
    }


def _identifiability(folder: Path) -> dict[str, Any] | None:
    """Read what was found out on the learned values; None for a model of an older version."""
    path = folder / "identifiability.json"
    return _read_json(path) if path.is_file() else None


def _model_summary(
    folder: Path,
    config: Mapping[str, Any],
    scheme: LabelScheme,
    mode: str,
    theta: Mapping[str, Mapping[str, float]],
) -> ModelSummary:
    dice = config.get("validation_dice") or {}
    return {
        "name": str(config["name"]),
        "sha256": _sha256(folder / "weights.safetensors"),
        "mode": mode,
        "best_dice": config.get("best_dice"),
        "steps": config["learn"]["training"].get("steps"),
        "seconds": config.get("seconds"),
        "settings": _settings(config, mode),
        "config": config,
        "software": {
            name: str(config[key])
            for name, key in (("l2s_pydra", "version"), ("torch", "torch"))
            if key in config
        },
        "labels": [
            {
                "index": label.index,
                "name": label.name,
                "color": hex_color(color),
                "dice": dice.get(label.name),
            }
            for label, color in zip(scheme.labels, label_colors(scheme), strict=True)
        ],
        "roles": _roles(folder, config),
        "theta": theta,
    }


def _settings(config: Mapping[str, Any], mode: str) -> list[SettingBlock]:
    """Choose the settings that matter; those of the augmentation only where it learns."""
    blocks: list[SettingBlock] = []
    for title, rows in _SETTINGS.items():
        items = []
        for name, path in rows.items():
            value = _lookup(config, path)
            if value is not None and (mode.startswith("learn2synth") or path not in _LEARNED_ONLY):
                items.append({"name": name, "value": _in_words(value)})
        if items and not (title == "Synthesis" and mode == "supervised"):
            blocks.append({"title": title, "items": items})
    return blocks


def _lookup(values: Mapping[str, Any], path: str) -> Any:
    """Value at a dotted path; None if it is not there."""
    for key in path.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return None
        values = values[key]
    return values


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")


def _roles(folder: Path, config: Mapping[str, Any]) -> list[Role]:
    roles: list[Role] = []
    table = folder / "splits.tsv"
    rows = read_rows(table, ("participant_id", "role")) if table.is_file() else []
    for role, (title, explanation) in _ROLES.items():
        names = sorted({row["participant_id"] for row in rows if row["role"] == role})
        if names:
            roles.append({"title": title, "explanation": explanation, "names": names})
    maps = config.get("label_maps") or []
    if maps:
        explanation = "Files that synthetic images were made from."
        roles.append({"title": "Label maps", "explanation": explanation, "names": list(maps)})
    held_out = config.get("validation_maps") or []
    if held_out:
        explanation = "Label maps whose synthetic images chose the weights that were kept."
        roles.append({"title": "Validated on", "explanation": explanation, "names": list(held_out)})
    return roles


def _read_samples(path: Path, scheme: LabelScheme, title: str, count: int) -> list[SampleImage]:
    """Read some images (N, X, Y[, Z]) with their channels, on the RAS working grid."""
    try:
        with np.load(path) as arrays:
            images, channels = arrays["images"][:count], arrays["labels"][:count]
        labels = scheme.to_indices(channels)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"{path}: holds no sample images ({error}); delete it, or learn the model again"
        ) from error
    shape = (*images.shape[1:], 1) if images.ndim == 3 else images.shape[1:]
    return [
        SampleImage(title, image.reshape(shape), label.reshape(shape))
        for image, label in zip(images, labels, strict=True)
    ]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error}); copy the model folder whole, "
            "or learn the model again"
        ) from error
