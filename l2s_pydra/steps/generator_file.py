"""The generator of a model in plain values, for those who use another one.

``generator.json`` of a model folder holds what was learned and the ranges that were fixed, with
units; ``docs/export.md`` says how to bring them to other generators.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SynthesisConfig, field_doc
from ..errors import ConfigError
from ..jsonfiles import read_json
from ..labels import LabelScheme
from .schemes import Schemes

if TYPE_CHECKING:
    from ..synthesis import GenerationLabels

__all__ = ["FORMAT_VERSION", "generator_record", "read_generator"]

FORMAT_VERSION = "1.0"
"""Version of the file's form; the first number changes if an entry is removed or means another thing."""

_SHARE, _LEVEL = "probability", "fraction of the intensity range"
_RANGES: dict[str, tuple[str, str]] = {
    "rotation_deg": ("symmetric", "degrees"),
    "scaling": ("about one", "factor"),
    "shearing": ("symmetric", "entry of the shear matrix"),
    "translation_mm": ("symmetric", "mm"),
    "flip": ("chance", _SHARE),
    "nonlinear_std_mm": ("from zero", "mm"),
    "nonlinear_spacing_mm": ("constant", "mm"),
    "mean_range": ("range", _LEVEL),
    "std_range": ("range", _LEVEL),
    "prior_free_share": ("chance", _SHARE),
    "channels": ("constant", "contrasts"),
    "crop": ("constant", "voxels"),
    "subclusters": ("constant", "count"),
    "background_share": ("chance", _SHARE),
    "strip_share": ("chance", _SHARE),
    "strip_margin_mm": ("from zero", "mm"),
    "lesion_share": ("chance", _SHARE),
    "lesion_count": ("from one", "lesions"),
    "lesion_radius_mm": ("constant", "mm"),
    "bias_std": ("from zero", "natural logarithm of the factor"),
    "bias_spacing_mm": ("constant", "mm"),
    "gamma_std": ("log-normal", "exponent"),
    "ghost_share": ("chance", _SHARE),
    "ghost_strength": ("from 0.05", "fraction of a line of k-space"),
    "motion_share": ("chance", _SHARE),
    "motion_deg": ("symmetric", "degrees"),
    "motion_mm": ("symmetric", "mm"),
    "resolution_share": ("chance", _SHARE),
    "isotropic_share": ("chance", _SHARE),
    "spacing_isotropic_mm": ("from spacing", "mm"),
    "spacing_slices_mm": ("from spacing", "mm"),
    "noise_std": ("from zero", _LEVEL),
    "rician_share": ("chance", _SHARE),
    "coverage_share": ("chance", _SHARE),
    "coverage_least_mm": ("constant", "mm"),
    "coverage_most_mm": ("constant", "mm"),
    "coverage_repeat_mm": ("constant", "mm"),
    "oversampling": ("constant", "fine voxels per voxel and axis"),
}
"""Kind of distribution and unit of each field of SynthesisConfig; priors go to the groups."""

_LEARNED = {
    "mean": (_LEVEL, "mean over images of the group's mean intensity"),
    "variation": (_LEVEL, "standard deviation of that mean between images (normal)"),
    "spread": (_LEVEL, "standard deviation of the group's voxels in an image, at spacing_mm"),
    "bias": ("natural logarithm of the factor", "standard deviation of the log bias field"),
    "noise": (_LEVEL, "standard deviation of the added noise"),
    "gamma": ("exponent", "median of the exponent gamma (log-normal)"),
    "gamma_spread": ("natural logarithm of the exponent", "standard deviation of log gamma"),
    "blur_voxels": (
        "voxels of spacing_mm",
        "median of the standard deviation of the Gaussian blur (log-normal)",
    ),
    "blur_spread": (
        "natural logarithm of the blur",
        "standard deviation of the logarithm of the blur's standard deviation",
    ),
    "sigma": (_LEVEL, "standard deviation of the added noise"),
    "sigma_min": (_LEVEL, "lowest standard deviation of the added noise (uniform)"),
    "sigma_max": (_LEVEL, "highest standard deviation of the added noise (uniform)"),
    **{
        f"exponent_{k}": (
            "exponent",
            f"of a smooth field of {k} control points per axis with values from 0.5 to 2",
        )
        for k in (2, 4, 8)
    },
    "log_bias_std": ("natural logarithm of the factor", "standard deviation of the log bias field"),
    "residual_std": (_LEVEL, "standard deviation of what the network adds; it cannot be exported"),
}


def generator_record(
    config: Mapping[str, Any], schemes: Schemes, labels: "GenerationLabels"
) -> dict[str, Any]:
    """Describe the generator that a model was learned with.

    Parameters
    ----------
    config : mapping
        ``config.json`` of the model.
    schemes : Schemes
        The label schemes of the run.
    labels : GenerationLabels
        Groups of the generation labels, from :func:`~l2s_pydra.steps.prepare.prepare`.

    Returns
    -------
    dict
        Plain values, see ``docs/export.md``.
    """
    learn = config["learn"]
    training, synthesis = learn["training"], learn["synthesis"]
    given = learn["augmentation"].get("theta") is not None
    uses = given or training["mode"].startswith("learn2synth")
    learned = config["theta"] if uses else {}
    wide = training["wide_share"] if any("/" in name for name in learned) else 0.0
    singles = {name: value for name, value in learned.items() if "/" not in name}
    return {
        "format": "l2s_pydra generator",
        "format_version": FORMAT_VERSION,
        "documentation": "docs/export.md in the sources of l2s_pydra",
        "model": config["name"],
        "version": config["version"],
        "mode": training["mode"],
        "spacing_mm": learn["spacing_mm"],
        "skull_stripped": config["skull_stripped"],
        "intensity": {
            "range": [0.0, 1.0],
            "meaning": "0 is the 0.5th percentile of an image, 1 the 99th percentile of its voxels "
            "brighter than the mean; outside is 0",
        },
        "learned_share": 1.0 - wide if learned else 0.0,
        "augmentation": learn["augmentation"]["name"] if learned else None,
        "learned": {name: _with_unit(name, value) for name, value in singles.items()},
        "learned_units": {
            name: _with_unit(name, None)
            for name in dict.fromkeys(n.partition("/")[0] for n in learned if "/" in n)
        },
        "groups": _groups(schemes, labels, learned, synthesis["priors"]),
        "ranges": {
            name: _range(kind, synthesis[name], unit, learn["spacing_mm"], name)
            for name, (kind, unit) in _RANGES.items()
        },
    }


def read_generator(path: Path) -> dict[str, Any]:
    """Read a ``generator.json`` as settings of a training whose images are drawn as it says.

    Returns
    -------
    dict
        ``spacing_mm``, ``skull_stripped``, and ``synthesis``, ``augmentation`` and ``training`` with what
        there is to set in these sections of a :class:`~l2s_pydra.config.LearnConfig`.

    Raises
    ------
    ConfigError
        If the file is not one, or of a form that is not known.
    """
    try:
        record = read_json(path)
        if record.get("format") != "l2s_pydra generator":
            raise ConfigError(f"{path}: is no generator.json of a model folder; give that one")
        if str(record["format_version"]).partition(".")[0] != FORMAT_VERSION.partition(".")[0]:
            raise ConfigError(
                f"{path}: has the form {record['format_version']}, {FORMAT_VERSION} is known; use the "
                f"version of l2s_pydra that wrote it ({record['version']})"
            )
        return _settings_of(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be used as a generator.json ({error!r})") from error


def _settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    ranges = record["ranges"]
    synthesis = {name: _value(name, ranges[name]) for name in _RANGES if name in ranges}
    synthesis["priors"] = {
        group["name"]: group["prior"] for group in record["groups"] if group["prior"]
    }
    found: dict[str, Any] = {
        "spacing_mm": record["spacing_mm"],
        "skull_stripped": record["skull_stripped"],
        "synthesis": synthesis,
        "augmentation": {},
        "training": {},
    }
    if record["augmentation"] is not None:
        theta = {name: entry["value"] for name, entry in record["learned"].items()}
        for group in record["groups"]:
            theta |= {f"{what}/{group['name']}": v for what, v in group["learned"].items()}
        found["augmentation"] = {
            "name": record["augmentation"],
            "theta": {name: value for name, value in theta.items() if value is not None},
        }
        found["training"] = {"wide_share": 1.0 - record["learned_share"]}
    return found


def _value(name: str, form: Mapping[str, Any]) -> Any:
    """Return the setting that :func:`_range` wrote as a distribution.

    >>> _value("scaling", _range("about one", 0.2, "factor", 1.0, "scaling"))
    0.2
    """
    kind = _RANGES[name][0]
    if kind == "range":
        return [form["low"], form["high"]]
    if kind == "about one":
        return round(form["high"] - 1, 12)
    if kind == "log-normal":
        return form["log_std"]
    return form["high"] if form["distribution"].startswith("uniform") else form["value"]


def _with_unit(name: str, value: float | None) -> dict[str, Any]:
    unit, meaning = _LEARNED.get(name, ("see docs/method.md", name))
    known = {} if value is None else {"value": _rounded(value)}
    return {**known, "unit": unit, "meaning": meaning}


def _groups(
    schemes: Schemes,
    labels: "GenerationLabels",
    learned: Mapping[str, float],
    priors: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Labels, learned values and prior of each intensity group, the outside first."""
    group, count = labels.group.tolist(), len(schemes.maps)
    # After the labels of the maps come those of the learners' own, then further parts of these.
    own = slice(count, count + len(schemes.target))
    further = range(own.stop, len(group), len(schemes.target))
    quantities = dict.fromkeys(name.partition("/")[0] for name in learned if "/" in name)
    as_channel = [schemes.target.indices[c] for c in schemes.maps_to_target]
    rows = []
    for number, name in enumerate(labels.group_names):
        of_maps = _members(schemes.maps, group[:count], number, as_channel)
        values = {q: learned.get(f"{q}/{name}") for q in quantities}
        rows.append(
            {
                "name": name,
                "label_maps": of_maps,
                "segmentation": _members(schemes.target, group[own], number),
                "part_of": [
                    member
                    for start in further
                    for member in _members(
                        schemes.target, group[start : start + len(schemes.target)], number
                    )
                ],
                "learned": {q: _rounded(value) for q, value in values.items()} if number else {},
                "prior": list(priors[name]) if name in priors else None,
            }
        )
    return rows


def _members(
    scheme: LabelScheme, groups: list[int], number: int, segmented_as: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Labels of a scheme that are in a group; background, and nothing else, in the first one."""
    members: list[dict[str, Any]] = []
    for channel, (label, group) in enumerate(zip(scheme.labels, groups, strict=True)):
        if group != number or (label.index != 0) != (number != 0):
            continue
        member = {
            "index": label.index,
            "name": label.name,
            "side": label.side_or_guess,
            "opposite": scheme.indices[scheme.opposite[channel]],
        }
        if segmented_as is not None:
            member["segmented_as"] = segmented_as[channel]
        members.append(member)
    return members


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _range(kind: str, value: Any, unit: str, spacing_mm: float, name: str) -> dict[str, Any]:
    """Write one setting as a distribution."""
    low: dict[str, Callable[[], float]] = {
        "symmetric": lambda: -value,
        "about one": lambda: 1 - value,
        "from zero": lambda: 0.0,
        "from 0.05": lambda: 0.05,
        "from spacing": lambda: spacing_mm,
    }
    form: dict[str, Any]
    if kind in low:
        high = 1 + value if kind == "about one" else value
        form = {"distribution": "uniform", "low": low[kind](), "high": high}
    elif kind == "range":
        form = {"distribution": "uniform", "low": value[0], "high": value[1]}
    elif kind == "from one":
        form = {"distribution": "uniform over whole numbers", "low": 1, "high": value}
    elif kind == "log-normal":
        form = {"distribution": "log-normal", "median": 1.0, "log_std": value}
    else:
        form = {"distribution": kind, "value": value}
    return {**form, "unit": unit, "meaning": field_doc(SynthesisConfig, name)}
