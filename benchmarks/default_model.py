"""How good the default model is on real scans, how robust, and how fast.

Accuracy: Dice of 15 structures, left and right together, on the scans' own grids, for T1w and three
contrasts simulated from it; with 95 % t intervals over participants. None of the scans was trained on
or chose anything. Robustness: Dice of what the model makes of a changed image with what it makes of
the image as it is, by the model's own labels, sides apart. Time: one image from file to labels.

    python benchmarks/default_model.py REAL [--model default] [--references DIR] [--out FOLDER]
        [--split val] [--quick] [--device cpu] [--json FILE]

REAL is a BIDS data set of T1w scans with the column ``split`` in participants.tsv; REFERENCES (by
default ``REAL/derivatives/reference``) has label maps ``desc-common`` of the labels in
``default_model_recipe/common.tsv``. FOLDER gets ``accuracy.tsv``, ``robustness.tsv``, ``default_model.md``
and a picture of each segmentation.
"""

import csv
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _changes
import _contrasts
import _table
import nibabel
import numpy as np

from l2s_pydra import load_model
from l2s_pydra.labels import LabelScheme

Row = _table.Row
RECIPE = Path(__file__).parent / "default_model_recipe"
PROTOCOLS = ("cerebral cortex", "accumbens")
"""Structures that the protocols of label maps and references define too differently to be averaged."""
LIMIT = "manual, through the grid"
"""Name of the column of what the voxel size of the model allows."""
WORDS = {
    "cerebral white": 1, "cerebral cortex": 2, "lateral ventricle": 3, "cerebellum white": 4,
    "cerebellum cortex": 5, "thalamus": 6, "caudate": 7, "putamen": 8, "pallidum": 9,
    "3rd ventricle": 10, "4th ventricle": 10, "brain stem": 11, "hippocampus": 12, "amygdala": 13,
    "accumbens": 14, "ventraldc": 15,
}  # fmt: skip
"""Number in ``common.tsv`` of the labels whose name has these words."""


def names() -> dict[int, str]:
    """Name of each structure of the references."""
    with (RECIPE / "common.tsv").open(encoding="utf-8") as file:
        return {int(r["index"]): r["name"] for r in csv.DictReader(file, delimiter="\t")}


def to_common(scheme: LabelScheme) -> dict[int, int]:
    """Structure of each value of a model; 0 for those that are none of them."""
    plain = {label.index: label.name.lower().replace("-", " ") for label in scheme.labels}
    return {
        index: next((number for words, number in WORDS.items() if words in name), 0)
        for index, name in plain.items()
    }


def translated(values: Any, table: Mapping[int, int]) -> Any:
    """Map each value of an array."""
    known, places = np.unique(values, return_inverse=True)
    return np.array([table.get(int(v), 0) for v in known])[places].reshape(values.shape)


def dice(one: Any, other: Any, values: Sequence[int]) -> dict[int, float]:
    """Dice of each value that is in either array; NaN of the others."""
    found = {}
    for value in values:
        a, b = one == value, other == value
        both = int(a.sum()) + int(b.sum())
        found[value] = 2 * int((a & b).sum()) / both if both else math.nan
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % t interval; NaN for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return statistics.fmean(values), math.nan
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(half)


def through_grid(labels: Any, voxel_mm: Sequence[float], spacing_mm: float) -> Any:
    """Labels as shares on a grid of another voxel size, brought back: what a perfect model could reach."""
    import torch
    from torch.nn.functional import interpolate

    known, places = np.unique(labels, return_inverse=True)
    size = [round(n * mm / spacing_mm) for n, mm in zip(labels.shape, voxel_mm, strict=True)]
    best = torch.full(labels.shape, -1.0)
    chosen = torch.zeros(labels.shape, dtype=torch.long)
    values = torch.from_numpy(places.reshape(labels.shape))
    for number in range(len(known)):
        share = interpolate((values == number).float()[None, None], size=size, mode="area")
        back = interpolate(share, size=labels.shape, mode="trilinear")[0, 0]
        chosen[back > best] = number
        best = torch.maximum(best, back)
    return known[chosen.numpy()]


class Judge:
    """A model, the scans it is judged on, and where to write."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.model = load_model(options.model)
        self.common = to_common(self.model.model.scheme)
        self.seconds: list[tuple[float, float]] = []

    def segment(self, image: Any) -> Any:
        """Values of the labels of an image, on its grid; the time is kept."""
        clock, processor = time.perf_counter(), time.process_time()
        found = self.model.segment(image, device=self.options.device, threads=self.options.threads)
        took = time.perf_counter() - clock, time.process_time() - processor
        self.seconds.append(took)
        return np.asarray(found.labels.dataobj)

    def scans(self) -> list[tuple[str, str, Path, Path]]:
        """Participant, split, image and labels of each scan."""
        real = self.options.real
        references = self.options.references or real / "derivatives" / "reference"
        with (real / "participants.tsv").open(encoding="utf-8") as file:
            people = [
                (row["participant_id"], row["split"])
                for row in csv.DictReader(file, delimiter="\t")
            ]
        found = []
        for who, split in people:
            image = real / who / "anat" / f"{who}_T1w.nii.gz"
            labels = references / who / "anat" / f"{who}_desc-common_dseg.nii.gz"
            if image.is_file() and labels.is_file():
                found.append((who, split, image, labels))
        wanted = [row for row in found if self.options.split in ("all", row[1])]
        return wanted[:1] if self.options.quick else wanted

    def accuracy(self) -> list[dict[str, Any]]:
        """Dice of each scan, contrast and structure; structures without a voxel are ``lost``."""
        rows = []
        for who, split, path, reference in self.scans():
            loaded: Any = nibabel.load(path)
            data = loaded.get_fdata(dtype=np.float32)
            truth = np.asarray(nibabel.load(reference).dataobj)  # type: ignore[attr-defined]
            spacing = self.model.model.spacing_mm
            limit = through_grid(truth, nibabel.affines.voxel_sizes(loaded.affine), spacing)
            merged_by = {LIMIT: limit}
            contrasts = {"T1w": data}
            if not self.options.quick:
                for suffix, how in _contrasts.CONTRASTS.items():
                    contrasts[how] = _contrasts.simulate(data, truth, names(), suffix)
            for contrast, values in contrasts.items():
                image = nibabel.Nifti1Image(values, loaded.affine)
                labels = self.segment(image)
                if self.options.out:
                    self.draw(f"{who}_{contrast}", values, labels, loaded.affine)
                merged_by[contrast] = translated(labels, self.common)
            for contrast, merged in merged_by.items():
                for number, value in dice(merged, truth, list(names())).items():
                    rows.append(
                        {
                            "participant": who,
                            "split": split,
                            "contrast": contrast,
                            "structure": names()[number],
                            "dice": value,
                            "lost": bool((truth == number).any() and not (merged == number).any()),
                        }
                    )
        return rows

    def robustness(self) -> list[dict[str, Any]]:
        """Mean Dice over the model's labels of each changed image with the image as it is."""
        (_, _, path, _), *_ = self.scans()
        loaded: Any = nibabel.load(path)
        clean = self.segment(loaded)
        values = [label.index for label in self.model.model.scheme.labels if label.index]
        rows = []
        for change in _changes.CHANGES:
            image, back = change.make(loaded)
            labels = self.segment(image)
            found, kept = back(labels, clean, self.model.model.scheme)
            scores = [v for v in dice(found, kept, values).values() if not math.isnan(v)]
            rows.append(
                {
                    "change": change.name,
                    "dice": statistics.fmean(scores),
                    "lowest": min(scores),
                    "labels": len(scores),
                }
            )
            if self.options.out:
                self.draw(f"change_{change.key}", np.asarray(image.dataobj), labels, image.affine)
        return rows

    def draw(self, name: str, data: Any, labels: Any, affine: Any) -> None:
        """Draw the labels over an image."""
        from l2s_pydra.reports import draw_sheet

        image = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.float32(data), affine))
        marks = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.int16(labels), affine))
        draw_sheet(
            [image.get_fdata()],
            [np.asarray(marks.dataobj)],
            [name],
            self.options.out / "figures" / f"{name}.png",
            limits=(0.0, float(np.percentile(data, 99.5))),
        )


def summary(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Mean over participants of each contrast and structure, and of two means over structures."""
    table = []
    for contrast in dict.fromkeys(r["contrast"] for r in rows):
        mine = [r for r in rows if r["contrast"] == contrast and not math.isnan(r["dice"])]
        groups = {name: [name] for name in dict.fromkeys(r["structure"] for r in mine)}
        groups["mean of all"] = list(groups)
        groups["mean without cortex and accumbens"] = [
            name for name in groups["mean of all"] if name not in PROTOCOLS
        ]
        for title, members in groups.items():
            people = [
                statistics.fmean(
                    r["dice"] for r in mine if r["participant"] == who and r["structure"] in members
                )
                for who in dict.fromkeys(r["participant"] for r in mine)
            ]
            mean, half = interval(people)
            table.append(_table.row(f"{contrast}: {title}", "dice", mean, "", "", 0))
            table[-1]["half_interval"] = half
    return table


def page(table: Sequence[Row], robust: Sequence[Mapping[str, Any]], judge: Judge) -> str:
    """All tables in Markdown."""
    contrasts = list(dict.fromkeys(r["case"].partition(": ")[0] for r in table))
    structures = list(dict.fromkeys(r["case"].partition(": ")[2] for r in table))
    cells = {r["case"]: f"{r['value']:.3f} ± {r['half_interval']:.3f}" for r in table}
    lines = [["structure", *contrasts], ["---"] * (1 + len(contrasts))]
    lines += [[s, *(cells.get(f"{c}: {s}", "") for c in contrasts)] for s in structures]
    lines += [[""], ["change", "mean Dice", "lowest", "labels"], ["---"] * 4]
    lines += [
        [r["change"], f"{r['dice']:.3f}", f"{r['lowest']:.3f}", str(r["labels"])] for r in robust
    ]
    text = "\n".join("| " + " | ".join(line) + " |" if line != [""] else "" for line in lines)
    wall, cpu = (statistics.median(values) for values in zip(*judge.seconds, strict=True))
    where = _table.machine(judge.options.device, judge.options.threads)
    return f"{text}\n\nOne image: {wall:.1f} s, {cpu:.1f} CPU s (median; {where}).\n"


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Judge a model, print the tables and write the files."""
    parser = _table.parser(__doc__ or "")
    parser.add_argument("real", type=Path)
    parser.add_argument("--model", default="default", help="folder, or name of a packaged model")
    parser.add_argument("--references", type=Path)
    parser.add_argument("--out", type=Path, help="folder for tables and pictures")
    parser.add_argument("--split", default="all", help="whom of participants.tsv; default: all")
    parser.add_argument("--threads", type=int, default=2)
    judge = Judge(parser.parse_args(arguments))
    options = judge.options
    rows, robust = judge.accuracy(), judge.robustness()
    table = summary(rows)
    lost = [f"{r['participant']} {r['contrast']} {r['structure']}" for r in rows if r["lost"]]
    text = page(table, robust, judge) + f"\nLost structures: {', '.join(lost) or 'none'}.\n"
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_tsv(options.out / "accuracy.tsv", rows)
        write_tsv(options.out / "robustness.tsv", robust)
        (options.out / "default_model.md").write_text(text, encoding="utf-8")
    _table.write(table, options.json)
    return table


if __name__ == "__main__":
    main()
