"""Dice of Learn2Synth and its baselines on a data set of yours, on the images' own grids.

Each mode is one call of ``l2s-pydra ... learn participant group`` with the same data, preset and
seed; a mode whose output is already there is not computed again. Printed are the macro Dice and the
Dice of each structure, over the validation participants and, where there are any, over labelled
participants that no training saw.

    python benchmarks/accuracy.py BIDS_DIR OUTPUT_DIR --real-labels DIR --label-maps DIR \
        [--labels-desc DESC] [--modes learn2synth synthseg supervised] [--quick] [--json FILE] \
        [-- further options of l2s-pydra]
"""

import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

import _table

MODES = ("learn2synth", "synthseg", "supervised")


def run(mode: str, options: object, further: list[str]) -> tuple[Path, float]:
    """Output folder of a mode, and the seconds it took."""
    values = vars(options)
    out = values["output_dir"] / mode
    command = ["l2s-pydra", str(values["bids_dir"]), str(out), "learn", "participant", "group"]
    command += ["--real-labels", str(values["real_labels"]), "--mode", mode]
    command += ["--label-maps", str(values["label_maps"]), "--device", values["device"]]
    command += ["--work-dir", str(values["output_dir"] / f"work_{mode}"), "--preset", "quick"]
    if values["labels_desc"]:
        command += ["--labels-desc", values["labels_desc"]]
    if values["quick"]:
        command += ["--steps", "300"]
    start = time.monotonic()
    subprocess.run([*command, *further], check=True)
    return out, time.monotonic() - start


def scores(folder: Path, role: str) -> dict[str, list[float]]:
    """Dice of each structure over the participants with a role in training (``unseen``: none)."""
    (splits,) = folder.glob("models/model-*/splits.tsv")
    with splits.open(encoding="utf-8") as file:
        roles = {r["participant_id"]: r["role"] for r in csv.DictReader(file, delimiter="\t")}
    (table,) = folder.glob("seg-*_dice.tsv")
    found: dict[str, list[float]] = {}
    with table.open(encoding="utf-8") as file:
        for r in csv.DictReader(file, delimiter="\t"):
            if r["dice"] != "n/a" and roles.get(r["participant_id"], "unseen") == role:
                found.setdefault(r["label"], []).append(float(r["dice"]))
    return found


def main() -> None:
    """Run, print, write."""
    parser = _table.parser((__doc__ or "").split("\n\n")[0])
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--real-labels", type=Path, required=True)
    parser.add_argument("--label-maps", type=Path, required=True)
    parser.add_argument("--labels-desc")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    further = sys.argv[len(own) + 2 :]
    options = parser.parse_args(own)
    rows, seconds, tables = [], {}, {}
    for mode in options.modes:
        folder, seconds[mode] = run(mode, options, further)
        tables[mode] = {role: scores(folder, role) for role in ("validate", "unseen")}
    base = options.modes[0]
    for role in ("validate", "unseen"):
        for name in ["mean", *tables[base][role]] if tables[base][role] else []:
            values = {}
            for mode in options.modes:
                means = {k: statistics.fmean(v) for k, v in tables[mode][role].items()}
                values[mode] = statistics.fmean(means.values()) if name == "mean" else means[name]
            rows += [
                _table.row(
                    f"{m} {role} {name}", "dice", v, "", f"{base} {role} {name}", values[base]
                )
                for m, v in values.items()
            ]
    rows += [_table.row(m, "time", s, "s", base, seconds[base]) for m, s in seconds.items()]
    _table.report(rows, options.json)


if __name__ == "__main__":
    main()
