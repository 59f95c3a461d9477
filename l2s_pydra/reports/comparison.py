"""The page of a comparison of trainings: which mode is better, by how much, and how sure that is."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from .answers import answer, caveats, focus_of, standing, was_learned
from .comparison_figures import difference_map, dots_by_mode, paired_dots
from .inputs import Figure
from .pages import write_page
from .seeds import over_seeds
from .tables import read_rows, to_number

__all__ = ["write_comparison"]

_MEAN = "mean"
_METRICS = {
    "dice": ("Dice", 3, "overlap with the reference, 1 is perfect"),
    "hd95_mm": ("Surface distance (mm)", 2, "95th percentile; 0 is perfect"),
    "volume_error": ("Volume error", 3, "absolute difference as a share of the reference volume"),
    "ece": ("Calibration error", 3, "how far probabilities are from frequencies; 0 is perfect"),
}
_STANDING = {
    "better": ("\N{BLACK UP-POINTING TRIANGLE}", "better than the baseline"),
    "worse": ("\N{BLACK DOWN-POINTING TRIANGLE}", "worse than the baseline"),
    "unclear": ("\N{ALMOST EQUAL TO}", "cannot be told from chance"),
}
_Row = Mapping[str, str]


def write_comparison(tables_dir: Path, out_dir: Path, *, facts: Mapping[str, Any]) -> Path:
    """Write the page of a comparison and its figures.

    Parameters
    ----------
    tables_dir : Path
        Folder of ``images.tsv`` (``participant_id``, ``image``, ``contrast``, ``role``, ``index``,
        ``structure``, the metrics, ``mode``, ``seed``), ``summary.tsv`` (``contrast``,
        ``structure``, ``metric``, ``mode``, ``mean``, ``sd_seeds``, ``n_seeds``,
        ``n_participants``, ``n_values``, ``n_undefined``, ``n_false``, ``difference``, ``ci_low``,
        ``ci_high``), ``participants.tsv`` (``contrast``, ``metric``, ``mode``, ``seed``,
        ``participant_id``, ``value``) and ``runs.tsv`` (``mode``, ``seed``, ``fold``, ``model``,
        ``validation_dice``, ``steps``, ``seconds``, ``status``, ``reason``; optionally
        ``hypergradient_steps`` and ``model_dir``, relative to the folder above ``out_dir``).
    out_dir : Path
        Folder for ``index.html`` and ``figures``.
    facts : mapping
        ``baseline`` (mode), and what is known of ``dataset``, ``learn``, ``validate`` and ``test``
        (participants), ``steps``, ``max_minutes``, ``folds``, ``modality``, ``command`` (list of
        words) and ``theta`` (contents of ``theta.json`` of the learn2synth runs).

    Returns
    -------
    Path
        ``out_dir/index.html``.

    Raises
    ------
    DatasetError
        If a table cannot be read or lacks a column.
    """
    out_dir = Path(out_dir)
    found = _Tables.read(Path(tables_dir), facts)
    values = {
        "baseline": found.baseline,
        "focus": found.focus,
        "modes": found.modes,
        "contrasts": found.contrasts,
        "answers": _answers(found),
        "caveats": _caveats(found),
        "glance": _glance(found),
        "standings": _STANDING,
        "figures": _figures(found, out_dir),
        "participants": _participants(found),
        "times": _times(found),
        "metrics": _METRICS,
        "means": _metric_rows(found, [_MEAN]),
        "details": _metric_rows(found, found.structures),
        "runs": _runs(found, out_dir),
        "theta": over_seeds(facts.get("theta") or []),
        "setup": _setup(found, facts),
        "command": facts.get("command"),
    }
    return write_page(out_dir / "index.html", "comparison.html", values)


@attrs.frozen(kw_only=True)
class _Tables:
    """The four tables, and what they are about."""

    images: list[dict[str, str]]
    runs: list[dict[str, str]]
    summary: dict[tuple[str, str, str, str], dict[str, str]]
    """By contrast, structure, metric and mode."""
    dice_by_seed: dict[tuple[str, str], dict[str, dict[str, float]]]
    """By contrast and mode, then by seed and participant."""
    baseline: str
    modes: list[str]
    """The baseline last."""
    contrasts: list[str]
    structures: list[str]
    """Without the mean over them."""

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> "_Tables":
        images = read_rows(
            folder / "images.tsv",
            ("participant_id", "contrast", "role"),
        )
        summary = read_rows(
            folder / "summary.tsv",
            ("contrast", "structure", "metric", "mode", "mean", "sd_seeds", "n_seeds",
             "n_participants", "n_values", "n_undefined", "n_false", "difference", "ci_low",
             "ci_high"),
        )  # fmt: skip
        people = read_rows(
            folder / "participants.tsv",
            ("contrast", "metric", "mode", "seed", "participant_id", "value"),
        )
        runs = read_rows(
            folder / "runs.tsv",
            ("mode", "seed", "model", "validation_dice", "steps", "seconds", "status", "reason"),
        )
        dice: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        for row in people:
            if row["metric"] == "dice":
                seeds = dice.setdefault((row["contrast"], row["mode"]), {})
                seeds.setdefault(row["seed"], {})[row["participant_id"]] = float(row["value"])
        names = _unique(row["mode"] for row in [*runs, *summary])
        baseline = str(facts.get("baseline") or (names[0] if names else ""))
        return cls(
            images=images,
            runs=runs,
            summary={
                (row["contrast"], row["structure"], row["metric"], row["mode"]): row
                for row in summary
            },
            dice_by_seed=dice,
            baseline=baseline,
            modes=[mode for mode in names if mode != baseline] + [baseline],
            contrasts=_unique(row["contrast"] for row in summary),
            structures=_unique(row["structure"] for row in summary if row["structure"] != _MEAN),
        )

    @property
    def focus(self) -> str | None:
        return focus_of(self.modes, self.baseline)

    def dice(self, contrast: str, structure: str = _MEAN) -> dict[str, dict[str, str]]:
        """Rows of the Dice by mode."""
        rows = {m: self.summary.get((contrast, structure, "dice", m)) for m in self.modes}
        return {mode: row for mode, row in rows.items() if row is not None}

    def seeds(self, contrast: str, mode: str) -> list[float]:
        """Mean Dice over participants of each seed."""
        by_seed = self.dice_by_seed.get((contrast, mode), {})
        return [float(np.mean(list(people.values()))) for people in by_seed.values()]

    def differences(self, contrast: str, mode: str) -> dict[str, float]:
        """Difference from the baseline of each participant, over seeds."""
        here, base = (
            list(self.dice_by_seed.get((contrast, name), {}).values())
            for name in (mode, self.baseline)
        )
        if not here or not base:
            return {}
        return {
            who: float(np.mean([x[who] for x in here]) - np.mean([x[who] for x in base]))
            for who in here[0]
        }

    @property
    def folds(self) -> bool:
        return any(run.get("fold", "n/a") != "n/a" for run in self.runs)

    @property
    def others(self) -> list[str]:
        return self.modes[:-1]


def _answers(found: _Tables) -> list[str]:
    learned = was_learned(found.runs, found.focus)
    return [
        answer(contrast, found.dice(contrast), found.baseline, found.focus, learned=learned)
        for contrast in found.contrasts
    ]


def _caveats(found: _Tables) -> list[str]:
    seeds: dict[str, int] = {}
    participants: dict[str, tuple[int, int]] = {}
    for contrast in found.contrasts:
        rows = found.dice(contrast)
        for mode, row in rows.items():
            count = int(row["n_seeds"])
            if count:
                seeds[mode] = min(count, seeds.get(mode, count))
        judged = {row["participant_id"] for row in found.images if row["contrast"] == contrast}
        compared = max((int(row["n_participants"]) for row in rows.values()), default=0)
        participants[contrast] = (compared, len(judged))
    return caveats(
        roles=_unique(row["role"] for row in found.images),
        seeds=seeds,
        participants=participants,
        runs=found.runs,
    )


def _glance(found: _Tables) -> list[dict[str, Any]]:
    """Rows of the first table: mean, spread and difference of each mode on each contrast."""
    rows = []
    for mode in found.modes:
        cells = []
        for contrast in found.contrasts:
            row = found.dice(contrast).get(mode)
            mean = to_number(row["mean"]) if row else math.nan
            cells.append(
                {
                    "mean": _text(mean, 3),
                    "sd": _text(to_number(row["sd_seeds"]), 3) if row else "",
                    "difference": _signed(to_number(row["difference"])) if row else "",
                    "interval": _interval(row),
                    "standing": standing(row),
                    "value": f"{mean:.6g}" if math.isfinite(mean) else "",
                }
            )
        rows.append({"mode": mode, "cells": cells})
    return rows


def _figures(found: _Tables, out_dir: Path) -> dict[str, Figure]:
    """Draw what there is to draw."""
    if not found.contrasts:
        return {}
    places = out_dir / "figures"
    means = {
        contrast: {mode: _mean(found.dice(contrast).get(mode)) for mode in found.modes}
        for contrast in found.contrasts
    }
    seeds = {
        contrast: {mode: found.seeds(contrast, mode) for mode in found.modes}
        for contrast in found.contrasts
    }
    dots_by_mode(seeds, means, places / "dice.png", baseline=found.baseline)
    figures: dict[str, Figure] = {
        "dice": {
            "href": "figures/dice.png",
            "alt": "Mean Dice of each mode on each contrast; the numbers are in the table above.",
            "caption": "Mean Dice over structures, images and participants. Dots are seeds"
            f"{', each over all folds' if found.folds else ''}, the bar is their mean, the dashed "
            f"line that of the baseline, {found.baseline}.",
        }
    }
    return figures | _difference_figures(found, places)


def _difference_figures(found: _Tables, places: Path) -> dict[str, Figure]:
    """Draw differences from the baseline, by participant and by structure."""
    figures: dict[str, Figure] = {}
    ends = {
        contrast: {mode: _ends(found.dice(contrast).get(mode)) for mode in found.others}
        for contrast in found.contrasts
    }
    if any(math.isfinite(mean) for by in ends.values() for mean, *_ in by.values()):
        dots = {
            contrast: {
                mode: list(found.differences(contrast, mode).values()) for mode in found.others
            }
            for contrast in found.contrasts
        }
        paired_dots(dots, ends, places / "paired.png")
        figures["paired"] = {
            "href": "figures/paired.png",
            "alt": "Difference of each participant from the baseline; the numbers are in the table "
            "below.",
            "caption": "Mean Dice minus that of the baseline. Dots are participants, the bar is their "
            "mean, the band its 95 % interval over participants and seeds: blue where it lies above "
            "0, orange below, grey where it includes 0 or is not known. All participants can lie on "
            "one side by chance, because one training moves them together.",
        }
    differences = {
        (contrast, mode, structure): to_number(row["difference"])
        for contrast in found.contrasts
        for structure in found.structures
        for mode, row in found.dice(contrast, structure).items()
        if mode != found.baseline
    }
    columns = _unique(
        (contrast, mode)
        for (contrast, mode, _), value in differences.items()
        if math.isfinite(value)
    )
    if columns:
        difference_map(columns, found.structures, differences, places / "structures.png")
        figures["structures"] = {
            "href": "figures/structures.png",
            "alt": "Difference of the Dice from the baseline by structure, mode and contrast; the "
            "means they come from are in the table of all structures.",
            "caption": "Dice minus that of the baseline by structure: purple is better, orange "
            "worse; whole is the union of all structures. Of so many numbers some are large by "
            "chance.",
        }
    return figures


def _participants(found: _Tables) -> list[dict[str, Any]]:
    """Differences of each participant, as a table for each contrast."""
    tables = []
    for contrast in found.contrasts:
        columns = {mode: found.differences(contrast, mode) for mode in found.others}
        columns = {mode: values for mode, values in columns.items() if values}
        names = sorted({who for values in columns.values() for who in values})
        rows = [
            {"name": who, "cells": [_signed(columns[m].get(who, math.nan)) for m in columns]}
            for who in names
        ]
        if rows:
            tables.append({"contrast": contrast, "modes": list(columns), "rows": rows})
    return tables


def _times(found: _Tables) -> list[dict[str, Any]]:
    """Mean time and steps of the trainings of each mode."""
    rows: list[dict[str, Any]] = []
    for mode in found.modes:
        runs = [run for run in found.runs if run["mode"] == mode]
        seconds = [s for run in runs if math.isfinite(s := to_number(run["seconds"]))]
        steps = [s for run in runs if math.isfinite(s := to_number(run["steps"]))]
        rows.append(
            {
                "mode": mode,
                "runs": len(runs),
                "seconds": float(np.mean(seconds)) if seconds else None,
                "steps": f"{np.mean(steps):.0f}" if steps else "n/a",
            }
        )
    longest = max((row["seconds"] or 0.0 for row in rows), default=0.0) or 1.0
    return [{**row, "width": round(100 * (row["seconds"] or 0) / longest, 1)} for row in rows]


def _metric_rows(found: _Tables, structures: Iterable[str]) -> list[dict[str, Any]]:
    """All metrics of each mode on each contrast and structure."""
    rows = []
    for contrast in found.contrasts:
        for structure in structures:
            for mode in found.modes:
                cells = [
                    _metric_cell(found.summary.get((contrast, structure, metric, mode)), decimals)
                    for metric, (_, decimals, _) in _METRICS.items()
                ]
                if any(cell["value"] or cell["missing"] for cell in cells):
                    names = {"contrast": contrast, "structure": structure, "mode": mode}
                    rows.append({**names, "cells": cells})
    return rows


def _metric_cell(row: _Row | None, decimals: int) -> dict[str, str]:
    if row is None:
        return {"value": "", "text": "n/a", "missing": ""}
    mean, spread = to_number(row["mean"]), to_number(row["sd_seeds"])
    text = _text(mean, decimals)
    if math.isfinite(spread):
        text += f" ± {spread:.{decimals}f}"
    undefined, total, false = (int(row[key]) for key in ("n_undefined", "n_values", "n_false"))
    missing = [f"{total - undefined} of {total} defined"] if undefined else []
    if false and row["metric"] == "dice":
        missing.append(f"{false} false positive{'' if false == 1 else 's'}")
    value = f"{mean:.6g}" if math.isfinite(mean) else ""
    return {"value": value, "text": text, "missing": ", ".join(missing)}


def _runs(found: _Tables, out_dir: Path) -> list[dict[str, Any]]:
    """Trainings as rows, with the page of each model."""
    rows = []
    for run in found.runs:
        place = run.get("model_dir", "n/a")
        there = place != "n/a" and (out_dir.parent / place / "report.html").is_file()
        seconds = to_number(run["seconds"])
        rows.append(
            {
                **{
                    key: run.get(key) or "n/a" for key in ("mode", "seed", "fold", "model", "steps")
                },
                "page": f"../{place}/report.html" if there else "",
                "dice": _text(to_number(run["validation_dice"]), 3),
                "seconds": seconds if math.isfinite(seconds) else None,
                "failed": run["status"] != "done",
                "status": run["status"],
                "reason": "" if run["reason"] == "n/a" else run["reason"],
            }
        )
    return rows


def _setup(found: _Tables, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Arrange what was compared as names and values."""
    minutes = facts.get("max_minutes")
    modality = facts.get("modality")
    named = {
        "Data set": facts.get("dataset"),
        "Learned from": modality if isinstance(modality, str) else ", ".join(modality or ()),
        "Baseline": found.baseline,
        "Steps of a training": facts.get("steps") if minutes is None else None,
        "Time of a training": None if minutes is None else f"{minutes:g} minutes",
        "Folds": facts.get("folds"),
        "Software": f"l2s_pydra {facts['version']}" if facts.get("version") else None,
    }
    roles = {
        "Learn": facts.get("learn"),
        "Validate": facts.get("validate"),
        "Test": facts.get("test"),
    }
    return {
        "facts": {name: value for name, value in named.items() if value},
        "roles": {role: list(names) for role, names in roles.items() if names},
    }


def _mean(row: _Row | None) -> float:
    return to_number(row["mean"]) if row else math.nan


def _ends(row: _Row | None) -> tuple[float, float, float]:
    keys = ("difference", "ci_low", "ci_high")
    mean, low, high = (to_number(row[key]) if row else math.nan for key in keys)
    return mean, low, high


def _interval(row: _Row | None) -> str:
    _, low, high = _ends(row)
    return f"{_signed(low)} to {_signed(high)}" if math.isfinite(low + high) else ""


def _text(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "n/a"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else ""


def _unique(names: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(names))
