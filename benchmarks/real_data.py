"""All modes on labelled scans of yours: the contrast that was labelled, and three that were not.

A copy of the data set is made in OUTPUT_DIR, in which the participants who are judged have three
further contrasts, simulated from their T1-weighted images: every structure with another mean (T2w),
intensities remapped (FLAIR), and intensities turned upside down (PDw). Every mode is then trained on
the T1-weighted images of the learning participants, with the same label maps, settings and number of
steps, and judged on all four contrasts (``l2s-pydra ... learn --compare``). What was trained before in
OUTPUT_DIR is not trained again. Printed are macro Dice, its ratio to that of ``synthseg``, and the
seconds of a run; OUTPUT_DIR/results/comparison has every number and a page.

    python benchmarks/real_data.py DATA OUTPUT_DIR [--modes MODE ...] [--seeds N] [--quick]
        [--device cpu] [--json FILE] [-- further options of l2s-pydra]

DATA has the folders ``real`` (BIDS, T1w, column ``split`` in participants.tsv), in it
``derivatives/reference`` with labels, and ``labelmaps`` (a BIDS derivative with dseg files).
"""

import csv
import statistics
import subprocess
import sys
from pathlib import Path

import _contrasts
import _table

MODES = (
    "synthseg",
    "learn2synth",
    "learn2synth-mixed",
    "supervised",
    "mixed",
    "mixed-randomised",
    "finetuned",
    "finetuned-averaged",
)
BASE = "synthseg"


def command(options: object, further: list[str]) -> list[str]:
    """Return the call of ``l2s-pydra`` that trains and judges everything."""
    values = vars(options)
    data, out = values["output_dir"] / "data", values["output_dir"]
    labels = _contrasts.write_data_set(
        values["data"] / "real",
        values["data"] / "real" / "derivatives" / "reference",
        values["labels_desc"],
        data,
        set(values["roles"]),
    )
    called = ["l2s-pydra", str(data), str(out / "results"), "learn", "--compare", *values["modes"]]
    called += ["--seeds", str(values["seeds"]), "--device", values["device"], "--preset", "quick"]
    called += ["--real-labels", str(labels), "--labels-desc", values["labels_desc"]]
    called += ["--label-maps", str(values["data"] / "labelmaps"), "--modality", "T1w"]
    called += ["--compare-modality", "T1w", *_contrasts.CONTRASTS, "--work-dir", str(out / "work")]
    if values["quick"]:
        called += ["--spacing-mm", "4", "--steps", "200"]
    return [*called, *further]


def rows(folder: Path) -> list[_table.Row]:
    """Macro Dice of each mode and contrast, and the seconds of a run."""
    with (folder / "summary.tsv").open(encoding="utf-8") as file:
        found = [
            r
            for r in csv.DictReader(file, delimiter="\t")
            if r["structure"] == "mean" and r["metric"] == "dice"
        ]
    means = {(r["contrast"], r["mode"]): float(r["mean"]) for r in found}
    contrasts = dict.fromkeys(contrast for contrast, _ in means)
    base = BASE if any(mode == BASE for _, mode in means) else found[0]["mode"]
    table = [
        _table.row(f"{mode} {c}", "dice", value, "", f"{base} {c}", means[c, base])
        for contrast in contrasts
        for (c, mode), value in means.items()
        if c == contrast
    ]
    with (folder / "runs.tsv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file, delimiter="\t"))
    seconds: dict[str, list[float]] = {}
    for run in runs:
        if run["seconds"] != "n/a":
            seconds.setdefault(run["mode"], []).append(float(run["seconds"]))
    medians = {mode: statistics.median(values) for mode, values in seconds.items()}
    return table + [
        _table.row(mode, "time", value, "s", base, medians[base]) for mode, value in medians.items()
    ]


def main() -> None:
    """Simulate, train, judge, print."""
    parser = _table.parser((__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--labels-desc", default="common")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--roles", nargs="+", default=["val", "test"], help="splits to judge on")
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    options = parser.parse_args(own)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    status = subprocess.run(command(options, sys.argv[len(own) + 2 :]), check=False).returncode
    _table.report(rows(options.output_dir / "results" / "comparison"), options.json)
    sys.exit(status)


if __name__ == "__main__":
    main()
