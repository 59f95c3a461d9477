"""Tables that compare trainings: every value, a summary, and which runs there were."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ..bids.derivatives import write_json, write_text
from ..reports.tables import read_rows, to_number
from .assess import COLUMNS, METRICS
from .paired import PARTICIPANT_COLUMNS, SUMMARY_COLUMNS, Value, by_participant, summarise

__all__ = [
    "ComparedRun",
    "answers",
    "baseline_of",
    "dice_lines",
    "read_left_out",
    "report_comparison",
    "write_tables",
]

logger = logging.getLogger(__name__)

_NONE = "n/a"
_RUN = ("mode", "seed", "fold")
_RUNS = (
    *_RUN,
    "model",
    "validation_dice",
    "steps",
    "hypergradient_steps",
    "seconds",
    "threads",
    "device",
    "status",
    "reason",
    "model_dir",
)
_FAILURES = (*_RUN, "participant_id", "image", "reason")


@attrs.frozen(kw_only=True)
class ComparedRun:
    """One training of a comparison, and what came of it."""

    mode: str
    """What was trained."""
    seed: int
    """Seed of everything random in it."""
    fold: int | None = None
    """Number of the split of the participants, from 1; None without folds."""
    model: Path | None = None
    """Model folder, if the training succeeded."""
    table: Path | None = None
    """Table of :func:`l2s_pydra.steps.assess.assess`, if the model could be assessed."""
    left_out: Sequence[dict[str, str]] = ()
    """``participant_id``, ``image`` and ``reason`` of images that could not be assessed."""
    reason: str = ""
    """Why there is no table."""

    @property
    def name(self) -> str:
        """Unique among the runs of a comparison.

        >>> ComparedRun(mode="synthseg", seed=1, fold=2).name
        'synthseg, seed 1, fold 2'
        """
        fold = f", fold {self.fold}" if self.fold is not None else ""
        return f"{self.mode}, seed {self.seed}{fold}"

    @property
    def key(self) -> dict[str, str]:
        """First columns of its rows."""
        fold = _NONE if self.fold is None else str(self.fold)
        return {"mode": self.mode, "seed": str(self.seed), "fold": fold}


def read_left_out(table: Path) -> list[dict[str, str]]:
    """Read which images :func:`~l2s_pydra.steps.assess.assess` left out, and why.

    Parameters
    ----------
    table : Path
        See :func:`~l2s_pydra.steps.assess.failures_file`.

    Raises
    ------
    DatasetError
        If the table cannot be read.
    """
    return read_rows(table, ("participant_id", "image", "reason"))


def report_comparison(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write the page of a comparison beside its tables.

    Parameters
    ----------
    folder : Path
        Where :func:`write_tables` wrote; ``index.html`` and ``figures`` go there.
    facts : mapping
        What was compared (:func:`l2s_pydra.reports.comparison.write_comparison`).

    Returns
    -------
    Path
        The page.
    """
    from ..reports.comparison import write_comparison

    page: Path = write_comparison(folder, folder, facts=facts)
    return page


def baseline_of(modes: Sequence[str]) -> str:
    """Mode that others are compared with: ``synthseg``, or the first if that is not among them.

    >>> baseline_of(["learn2synth", "synthseg"]), baseline_of(["mixed", "supervised"])
    ('synthseg', 'mixed')
    """
    return "synthseg" if "synthseg" in modes else modes[0]


def write_tables(
    runs: Sequence[ComparedRun], out_dir: Path, *, baseline: str
) -> list[dict[str, str]]:
    """Write the tables of a comparison, each with a JSON that says what its columns are.

    Parameters
    ----------
    runs : sequence of ComparedRun
        All runs, also those that failed.
    out_dir : Path
        Folder for ``images.tsv`` (every value), ``summary.tsv`` (:func:`~.paired.summarise`),
        ``participants.tsv`` (:func:`~.paired.by_participant`), ``runs.tsv`` and, if images were
        left out, ``failures.tsv``.
    baseline : str
        Mode that the others are compared with.

    Returns
    -------
    list of dict
        Rows of ``summary.tsv``.

    Raises
    ------
    DatasetError
        If a table cannot be read.
    """
    rows = [
        {**run.key, **row} for run in runs if run.table for row in read_rows(run.table, COLUMNS)
    ]
    modes = list(dict.fromkeys(run.mode for run in runs))
    values = [_value(row) for row in rows]
    summary = summarise(values, modes=modes, baseline=baseline)
    left_out = [{**run.key, **image} for run in runs for image in run.left_out]
    _write(out_dir, "images", (*_RUN, *COLUMNS), rows)
    _write(out_dir, "summary", SUMMARY_COLUMNS, summary)
    _write(out_dir, "participants", PARTICIPANT_COLUMNS, by_participant(values))
    _write(out_dir, "runs", _RUNS, [_run_row(run) for run in runs])
    if left_out:
        _write(out_dir, "failures", _FAILURES, left_out)
    return summary


def _value(row: Mapping[str, str]) -> Value:
    reference, segmented = (to_number(row[k]) for k in ("reference_volume_mm3", "volume_mm3"))
    return Value(
        mode=row["mode"],
        seed=row["seed"],
        contrast=row["contrast"],
        participant=row["participant_id"],
        image=row["image"],
        structure=row["structure"],
        whole=row["index"] == _NONE,
        expected=reference > 0,
        false_positive=reference == 0 and segmented > 0,
        metrics={name: to_number(row[name]) for name in METRICS},
    )


def _run_row(run: ComparedRun) -> dict[str, str]:
    row = {**dict.fromkeys(_RUNS, _NONE), **run.key}
    row["status"] = "done" if run.table else "failed"
    missing = ", ".join(image["image"] for image in run.left_out)
    row["reason"] = run.reason or (f"not assessed: {missing}" if missing else _NONE)
    if run.model is None:
        return row
    try:
        config: dict[str, Any] = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
        training = read_rows(run.model / "training.tsv", ("step",))
        row["model"] = config["name"]
        row["model_dir"] = f"models/model-{config['name']}"
        row["validation_dice"] = _cell(config["best_dice"])
        row["seconds"] = _cell(config["seconds"])
        row["steps"] = training[-1]["step"]
        row["hypergradient_steps"] = _hypergradient_steps(run)
        row |= {name: str(config.get(name, _NONE)) for name in ("threads", "device")}
    except (OSError, ValueError, KeyError, IndexError) as error:
        # What was assessed counts all the same.
        logger.warning("%s: is no model of a training (%s); learn it again", run.model, error)
        row["reason"] = f"{run.model.name}: is no model of a training; learn it again"
    return row


def _hypergradient_steps(run: ComparedRun) -> str:
    """How often the learned values were stepped; n/a where a training learns none."""
    path = None if run.model is None else run.model / "theta.json"
    if path is None or not run.mode.startswith("learn2synth") or not path.is_file():
        return _NONE
    theta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return str(theta.get("hypergradient_steps", _NONE))


def _cell(value: Any) -> str:
    return _NONE if value is None else f"{value:.6g}"


def dice_lines(summary: Sequence[Mapping[str, str]]) -> list[str]:
    """Mean Dice of each mode on each contrast, as lines of a small table.

    Parameters
    ----------
    summary : sequence of mappings
        Rows of ``summary.tsv``.

    Returns
    -------
    list of str
        A heading and one line a mode; "0.812 ± 0.004 (+0.015)" is mean, standard deviation over
        seeds and difference from the baseline.
    """
    rows = _mean_dice(summary)
    contrasts = list(dict.fromkeys(row["contrast"] for row in rows))
    table = {(row["mode"], row["contrast"]): _in_short(row) for row in rows}
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    cells = [["mean Dice", *contrasts]]
    cells += [[mode, *(table.get((mode, c), _NONE) for c in contrasts)] for mode in modes]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _mean_dice(summary: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return [row for row in summary if (row["structure"], row["metric"]) == ("mean", "dice")]


def _in_short(row: Mapping[str, str]) -> str:
    mean, spread, difference = (to_number(row[key]) for key in ("mean", "sd_seeds", "difference"))
    if mean != mean:
        return _NONE
    text = f"{mean:.3f}" + ("" if spread != spread else f" ± {spread:.3f}")
    return text + ("" if difference != difference else f" ({difference:+.3f})")


def answers(summary: Sequence[Mapping[str, str]], runs: Sequence[ComparedRun] = ()) -> list[str]:
    """Say in words whether the mode in question is better than the baseline, on each contrast.

    Parameters
    ----------
    summary : sequence of mappings
        Rows of ``summary.tsv``.
    runs : sequence of ComparedRun
        What it is of; whether the synthesis was learned at all is read from their models.

    Returns
    -------
    list of str
        The sentences of the page (:func:`l2s_pydra.reports.answers.answer`), one a contrast.
    """
    from ..reports.answers import answer, focus_of, was_learned

    steps = [{"mode": run.mode, "hypergradient_steps": _hypergradient_steps(run)} for run in runs]
    contrasts: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in _mean_dice(summary):
        contrasts.setdefault(row["contrast"], {})[row["mode"]] = row
    sentences = []
    for contrast, rows in contrasts.items():
        baseline = next(iter(rows.values()))["baseline"]
        focus = focus_of(list(rows), baseline)
        learned = was_learned(steps, focus)
        sentences.append(answer(contrast, rows, baseline, focus, learned=learned))
    return sentences


def _write(
    folder: Path, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, str]]
) -> None:
    lines = ["\t".join(columns)]
    lines += ["\t".join(" ".join(row[column].split()) for column in columns) for row in rows]
    write_text(folder / f"{name}.tsv", "\n".join(lines) + "\n")
    described = {column: {"Description": _DESCRIPTIONS[column]} for column in columns}
    for column in described.keys() & _UNITS.keys():
        described[column]["Units"] = _UNITS[column]
    write_json(folder / f"{name}.json", described)


_UNITS = {
    "hd95_mm": "mm",
    "volume_mm3": "mm^3",
    "reference_volume_mm3": "mm^3",
    "seconds": "s",
}
_DESCRIPTIONS = {
    "mode": "What was trained",
    "seed": "Seed of everything random in the training",
    "fold": "Number of the split of the participants, from 1; n/a without folds",
    "participant_id": "Participant",
    "image": "Image that was segmented",
    "contrast": "Suffix of the image; after its acq- where there are several acquisitions of one",
    "role": "test: the participant had no part in the training; validate: the participant's labels "
    "chose which weights are kept, so that values are optimistic",
    "index": "Value of the label; n/a for the union of all structures",
    "structure": "Name of the structure; whole is the union of all, mean (in the summary) the mean "
    "over structures, the union not among them",
    "dice": "2 |P and R| / (|P| + |R|), P segmented and R reference voxels, on the image's grid; n/a "
    "where both are empty",
    "hd95_mm": "95th percentile of the distances between the surfaces of P and R, those from P to "
    "R and from R to P together; n/a where one of them is empty",
    "volume_mm3": "Volume of P",
    "reference_volume_mm3": "Volume of R",
    "volume_error": "|V(P) - V(R)| / V(R); n/a where R is empty",
    "ece": "Expected calibration error, 15 bins: of the posterior of the structure, over voxels "
    "where it is above 0.01 or the reference is the structure; in the rows of the union, of the "
    "largest posterior, over voxels of P or R",
    "metric": "Which of the columns of images.tsv is summarised",
    "value": "Mean over the structures, then the images of the participant, of those that the "
    "reference has and for which every training has a value",
    "mean": "Mean over structures, over the images of each participant, over participants, and over "
    "seeds; of the images and structures that the reference has and for which every training of "
    "every mode has a value",
    "sd_seeds": "Standard deviation, over seeds, of the mean over participants; n/a for one seed",
    "n_seeds": "Seeds with a value",
    "n_participants": "Participants in the mean and the difference: those with a value in every "
    "training",
    "n_values": "Values there could be: images, structures that their reference has, trainings",
    "n_undefined": "Of these, those that are not defined, such as the distance to a structure that "
    "was missed; what is not defined in one training is left out of all means",
    "n_false": "Where the reference delineates the structure but has none, how often it was "
    "segmented; in no mean",
    "baseline": "Mode that the others are compared with",
    "difference": "Mean of the mode minus that of the baseline",
    "ci_low": "Lower end of the 95 % interval of the difference, for other participants and other "
    "seeds: t interval with the squared standard error s_d^2 / n + s_m^2 / K_m + s_b^2 / K_b (s_d "
    "over the n participants, s_m and s_b over the seeds of mode and baseline) and Satterthwaite's "
    "degrees of freedom; n/a with one participant or with one seed of either mode",
    "ci_high": "Upper end of that interval",
    "model": "Name of the model",
    "validation_dice": "Mean Dice on the validation participants, on the working grid, of the "
    "weights that were kept",
    "steps": "Steps that were done",
    "hypergradient_steps": "Steps of the learned values of the synthesis; n/a where none are learned",
    "seconds": "Time of the training",
    "threads": "CPU threads of the training; of each of its processes, where several shared it",
    "device": "What the networks were computed on: cpu, or a GPU",
    "status": "done, or failed",
    "reason": "Why a run failed, which images could not be assessed, or why an image could not",
    "model_dir": "Folder of the model, relative to the root of the data set",
}
