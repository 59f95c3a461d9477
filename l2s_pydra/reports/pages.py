"""HTML pages: of a participant, of a group, of a model.

A page is one file that opens offline: style and script are inside, pictures are files beside it.
Its input is plain values, described in :mod:`l2s_pydra.reports.inputs`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from .filters import FILTERS
from .group_range import Group, group_flags, group_name, group_ranges
from .inputs import Failure, Figure, ImageSummary, Link, ModelReference, ModelSummary, Sheet
from .statistics import (
    THRESHOLD,
    ImageValue,
    distributions,
    matrix,
    mean_over_images,
    unusual_values,
)

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["group_page", "model_page", "participant_page", "preview_page", "write_page"]


_MODES = {
    "learn2synth": "A segmenter that saw synthetic images only. How these images look was learned: "
    "adjusted, step by step, until training on them lowered the error on labelled real scans.",
    "synthseg": "A segmenter that saw synthetic images of very varied appearance, and no real one.",
    "supervised": "A segmenter trained on labelled real images alone: a baseline that serves scans "
    "like those it learned from.",
}
_GLOSSARY = {
    "mean": "mean intensity of the group, on a scale from 0 to 1",
    "variation": "standard deviation of that mean over synthetic images",
    "spread": "standard deviation of the intensities within the group",
    "bias": "standard deviation of the logarithm of the bias field",
    "noise": "standard deviation of the added noise",
    "sigma": "standard deviation of the added noise",
    "sigma_min": "lowest standard deviation of the added noise",
    "sigma_max": "highest standard deviation of the added noise",
    "log_bias_std": "standard deviation of the logarithm of the whole bias field; the exponents of "
    "its parts replace one another and cannot be told apart",
    "residual_std": "standard deviation of what the network adds to an image",
}


_ROLES = {
    "test": ("tested", "Participants kept for testing: no training saw them."),
    "none": ("not in training", "Participants that had no part in the training of the model."),
    "n/a": (
        "role not known",
        "It is not known whether the model learned from these participants.",
    ),
    "validate": (
        "validation",
        "Their labels chose the weights that were kept: these values are somewhat too good.",
    ),
    "learn": ("learning", "The model learned from their labels: these values are too good."),
}
"""Part of a participant in the training: name, and what it means for the overlap."""


def participant_page(
    participant: str,
    images: Sequence[ImageSummary],
    out_path: str | Path,
    *,
    run: Mapping[str, Any],
    earlier: Sequence[Mapping[str, Any]] = (),
    failures: Sequence[Failure] = (),
    links: Sequence[Link] = (),
    groups: Mapping[str, Group] | None = None,
) -> Path:
    """Write the page of a participant: figures, volumes, warnings, failures, what was run.

    Parameters
    ----------
    participant : str
        ``sub-<label>``.
    images : sequence of ImageSummary
        Segmented images, in the order shown.
    out_path : str or Path
        Page to write.
    run : mapping
        Record of the run (``run``, ``software``, ``command``, ``settings``), as
        ``l2s_pydra.toml`` holds it; may be empty.
    earlier : sequence of mappings
        Records of the runs that made images which ``run`` did not.
    failures : sequence of Failure
        Images that could not be segmented.
    links : sequence of Link
        Further pages and files.
    groups : mapping, optional
        Volumes of the group (:func:`~l2s_pydra.reports.group_range.index_group`) by the ``seg``
        entity of the images.

    Returns
    -------
    Path
        ``out_path``.
    """
    models = {image["model"]["name"]: image["model"] for image in images}
    shown: list[dict[str, Any]] = []
    for image in images:
        group = (groups or {}).get(image.get("segmentation", ""))
        name, before = group_name(image), [other["name"] for other in shown]
        anchor = f"{name}-{before.count(name) + 1}" if name in before else name
        shown.append({**_in_group(image, group), "name": name, "anchor": anchor})
    values = {
        "participant": participant,
        "images": shown,
        "models": list(models.values()),
        "runs": [run, *earlier],
    }
    return write_page(out_path, "participant.html", {**values, **_shared(run, failures, links)})


def _in_group(image: ImageSummary, group: Group | None) -> dict[str, Any]:
    """Image with the place of its volumes in the group, if there is one."""
    ranges = group_ranges(image, group) if group else {}
    flags = [*image.get("flags", ()), *group_flags(image, ranges)]
    return {**image, "flags": flags, "group": ranges}


def group_page(
    volumes: Sequence[ImageValue],
    out_path: str | Path,
    *,
    dice: Sequence[ImageValue] = (),
    roles: Mapping[str, str] | None = None,
    flags: Sequence[Mapping[str, Any]] = (),
    failures: Sequence[Failure] = (),
    pages: Mapping[str, str] | None = None,
    models: Sequence[ModelReference] = (),
    run: Mapping[str, Any] | None = None,
    links: Sequence[Link] = (),
) -> Path:
    """Write the page of a group: volumes and overlap per structure, unusual values, failures.

    Parameters
    ----------
    volumes : sequence of ImageValue
        Volume in mm^3 of each structure of each image.
    out_path : str or Path
        Page to write.
    dice : sequence of ImageValue
        Dice of each structure of each image that has a reference; NaN where the structure is
        absent in both.
    roles : mapping, optional
        What the participant of each image, by its name, was to the model: ``learn``, ``validate``,
        ``test``, ``none`` (no part in the training) or ``n/a`` (not known, the default). Dice of
        different roles are not averaged together.
    flags : sequence of mappings
        ``name`` of an image and ``texts``, remarks on it.
    failures : sequence of Failure
        Images that could not be segmented.
    pages : mapping, optional
        Relative path of the page of each participant; ``sub-<label>.html`` by default.
    models : sequence of ModelReference
        Models that were used.
    run : mapping, optional
        Record of the run, see :func:`participant_page`.
    links : sequence of Link
        Further pages and files.

    Returns
    -------
    Path
        ``out_path``.
    """
    unusual = unusual_values(volumes)
    names = {value.name: value.participant for value in volumes}
    far = {(row.name, row.label): f"{row.deviations:+.1f} deviations" for row in unusual}
    values = {
        "counts": {"images": len(names), "participants": len(set(names.values()))},
        "unusual": unusual,
        "threshold": THRESHOLD,
        "volumes": distributions(volumes, scale=1e-3),
        "volume_table": matrix(volumes, scale=1e-3, decimals=2, far=far),
        "dice": _dice_by_role(dice, roles or {}),
        "dice_table": matrix(dice, decimals=3, with_mean=True),
        "roles": {name: (roles or {}).get(name, "n/a") for name in names},
        "flags": flags,
        "pages": pages or {who: f"{who}.html" for who in names.values()},
        "models": models,
    }
    return write_page(out_path, "group.html", {**values, **_shared(run or {}, failures, links)})


def _dice_by_role(dice: Sequence[ImageValue], roles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Summarise the overlap of those who had the same part in the training, the fairest first."""
    found = []
    for role, (title, explanation) in _ROLES.items():
        values = [value for value in dice if roles.get(value.name, "n/a") == role]
        if not values:
            continue
        mean, images = mean_over_images(values)
        found.append(
            {
                "role": role,
                "title": title,
                "explanation": explanation,
                "images": images,
                "mean": f"{mean:.3f}" if images else "n/a",
                "rows": distributions(values, limits=(0.0, 1.0), decimals=3),
            }
        )
    return found


def model_page(
    model: ModelSummary,
    out_path: str | Path,
    *,
    curves: Figure | None = None,
    theta_figures: Sequence[Figure] = (),
    determined: Mapping[str, Any] | None = None,
    correlations: Figure | None = None,
    priors: Figure | None = None,
    samples: Sequence[Figure] = (),
    files: Sequence[Link] = (),
    run: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page of a model: settings, data, training, what was learned, images.

    Parameters
    ----------
    model : ModelSummary
        The model.
    out_path : str or Path
        Page to write.
    curves : Figure, optional
        Losses and validation over the steps.
    theta_figures : sequence of Figure
        Learned values over the steps, and beside their start.
    determined : mapping, optional
        Which learned values the data determine
        (:func:`~l2s_pydra.reports.verdicts.learned_verdicts`).
    correlations : Figure, optional
        Correlations of the gradients of the learned values.
    priors : Figure, optional
        Intensities of the groups in the real scans.
    samples : sequence of Figure
        Synthetic images beside real ones.
    files : sequence of Link
        Files of the model folder.
    run : mapping, optional
        Record of the run, see :func:`participant_page`.

    Returns
    -------
    Path
        ``out_path``.
    """
    values = {
        "model": model,
        "explanation": _MODES.get(model["mode"], f"A segmenter learned in mode {model['mode']}."),
        "curves": curves,
        "theta": _theta_table(model["theta"]),
        "theta_figures": theta_figures,
        "determined": determined,
        "correlations": correlations,
        "priors": priors,
        "samples": samples,
        "files": files,
    }
    return write_page(out_path, "model.html", {**values, **_shared(run or {}, (), ())})


def preview_page(
    out_path: str | Path,
    *,
    glance: Figure,
    priors: Figure | None,
    sheets: Sequence[Sheet],
    theta: Mapping[str, float],
    settings: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
) -> Path:
    """Write the page that shows, before a training, what it would train on.

    Parameters
    ----------
    out_path : str or Path
        Page to write.
    glance : Figure
        A few images of each kind side by side.
    priors : Figure or None
        Intensities of the groups in the real scans, if there are any.
    sheets : sequence of Sheet
        Images of each kind.
    theta : mapping
        Values that the augmentation starts with; empty if nothing would be learned.
    settings : sequence of mappings
        ``name``, ``value`` and ``meaning`` of each setting.
    facts : mapping
        Name to what was found in the data.

    Returns
    -------
    Path
        ``out_path``.
    """
    values = {
        "glance": glance,
        "priors": priors,
        "sheets": sheets,
        "theta": _theta_table({"start": theta, "average": theta}),
        "settings": settings,
        "facts": facts,
    }
    return write_page(out_path, "preview.html", {**values, **_shared({}, (), ())})


def _shared(
    run: Mapping[str, Any], failures: Sequence[Failure], links: Sequence[Link]
) -> dict[str, Any]:
    return {"run": run, "failures": failures, "links": links, "version": __version__}


def _theta_table(theta: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Values named ``<quantity>/<group>`` as rows of their group, the others by themselves."""
    names = list(theta.get("average") or theta.get("final") or {})
    grouped = [name.rpartition("/") for name in names if "/" in name]
    quantities = list(dict.fromkeys(quantity for quantity, _, _ in grouped))
    groups = list(dict.fromkeys(group for _, _, group in grouped))

    def value(name: str) -> dict[str, float | None]:
        return {kind: theta.get(kind, {}).get(name) for kind in ("start", "average", "final")}

    single = [name for name in names if "/" not in name]
    return {
        "glossary": {q: _GLOSSARY[q] for q in (*quantities, *single) if q in _GLOSSARY},
        "quantities": quantities,
        "groups": [
            {"name": group, "cells": [value(f"{quantity}/{group}") for quantity in quantities]}
            for group in groups
        ],
        "single": [{"name": name, **value(name)} for name in single],
    }


@cache
def _environment() -> "Environment":
    """Templates, compiled once for all pages of a process."""
    from jinja2 import Environment, PackageLoader, Undefined, select_autoescape

    class Optional(Undefined):
        """A key that is not there may be tested, and is falsy, but not printed."""

        __str__ = Undefined._fail_with_undefined_error  # type: ignore[assignment]

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=select_autoescape(["html"]),
        undefined=Optional,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


def write_page(path: str | Path, template: str, values: Mapping[str, Any]) -> Path:
    """Fill a template.

    Parameters
    ----------
    path : str or Path
        Page to write; its folder is made.
    template : str
        Name of a file in ``templates``.
    values : mapping
        What it is filled with; ``version`` is added.

    Returns
    -------
    Path
        ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _environment().get_template(template).render({"version": __version__, **values}) + "\n",
        encoding="utf-8",
    )
    return path
