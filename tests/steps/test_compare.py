"""Tables of a comparison from tables of its runs."""

import csv
import json

import pytest

from l2s_pydra.steps.assess import COLUMNS
from l2s_pydra.steps.compare import (
    ComparedRun,
    answers,
    baseline_of,
    dice_lines,
    read_left_out,
    write_tables,
)

DICE = {"synthseg": (0.70, 0.60), "learn2synth": (0.80, 0.71), "supervised": (0.70, 0.59)}


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def assessed(path, dice_by_image, contrast="T1w"):
    """Write a table as the step ``assess`` writes it, with one structure and the union."""
    lines = ["\t".join(COLUMNS)]
    for image, dice in dice_by_image.items():
        for index, structure in (("n/a", "whole"), ("3", "grey")):
            cells = [image, f"{image}_T1w", contrast, "test", index, structure, str(dice)]
            lines.append("\t".join([*cells, "1.5", "10", "12", "0.2", "n/a"]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def make_runs(tmp_path):
    """Make one run of each mode and seed, whose models and tables are there."""

    def make_runs(modes=tuple(DICE), seeds=(0, 1), contrast="T1w"):
        runs = []
        for mode in modes:
            for seed in seeds:
                folder = tmp_path / f"{mode}{seed}"
                folder.mkdir()
                config = {"name": folder.name, "best_dice": 0.5, "seconds": 12.3}
                config |= {"threads": 4, "device": "cuda:0"}
                (folder / "config.json").write_text(json.dumps(config))
                (folder / "training.tsv").write_text("step\tseconds\n1\t2\n60\t12\n")
                dice = {"sub-01": DICE[mode][0] + seed / 100, "sub-02": DICE[mode][1] + seed / 100}
                table = assessed(tmp_path / f"{mode}{seed}.tsv", dice, contrast)
                runs.append(ComparedRun(mode=mode, seed=seed, model=folder, table=table))
        return runs

    return make_runs


def test_tables_and_what_their_columns_are(make_runs, tmp_path):
    runs, out = make_runs(), tmp_path / "comparison"
    summary = write_tables(runs, out, baseline="synthseg")
    images = read(out / "images.tsv")
    assert len(images) == 3 * 2 * 2 * 2
    assert list(images[0]) == ["mode", "seed", "fold", *COLUMNS]
    assert images[0]["fold"] == "n/a"
    assert read(out / "summary.tsv") == summary
    for name in ("images", "summary", "participants", "runs"):
        described = json.loads((out / f"{name}.json").read_text())
        assert list(described) == list(read(out / f"{name}.tsv")[0])
        assert all(column["Description"] for column in described.values())
    assert json.loads((out / "images.json").read_text())["hd95_mm"]["Units"] == "mm"
    assert not (out / "failures.tsv").exists()


def test_runs_say_what_they_cost_and_gave(make_runs, tmp_path):
    write_tables(make_runs(), tmp_path, baseline="synthseg")
    first = read(tmp_path / "runs.tsv")[0]
    assert first == {
        "mode": "synthseg",
        "seed": "0",
        "fold": "n/a",
        "model": "synthseg0",
        "validation_dice": "0.5",
        "steps": "60",
        "hypergradient_steps": "n/a",
        "seconds": "12.3",
        "threads": "4",
        "device": "cuda:0",
        "status": "done",
        "reason": "n/a",
        "model_dir": "models/model-synthseg0",
    }


def test_where_a_run_was_trained_may_not_be_known(make_runs, tmp_path):
    (run,) = make_runs(["synthseg"], [0])
    path = run.model / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: config[key] for key in ("name", "best_dice", "seconds")}))
    write_tables([run], tmp_path / "out", baseline="synthseg")
    (row,) = read(tmp_path / "out" / "runs.tsv")
    assert (row["threads"], row["device"], row["steps"]) == ("n/a", "n/a", "60")


def test_failed_runs_are_in_the_table(make_runs, tmp_path):
    runs = make_runs(["synthseg"], [0])
    runs += [ComparedRun(mode="learn2synth", seed=0, fold=2, reason="no\tmemory\nleft")]
    runs += [ComparedRun(mode="mixed", seed=0, model=runs[0].model, reason="cannot be assessed")]
    summary = write_tables(runs, tmp_path / "out", baseline="synthseg")
    _, failed, unassessed = read(tmp_path / "out" / "runs.tsv")
    assert (failed["fold"], failed["status"], failed["reason"]) == ("2", "failed", "no memory left")
    assert failed["model"] == failed["model_dir"] == "n/a"
    assert (unassessed["status"], unassessed["model"]) == ("failed", "synthseg0")
    assert {row["mode"] for row in summary} == {"synthseg", "learn2synth", "mixed"}
    (sentence,) = answers(summary)
    assert "there is no result of learn2synth" in sentence
    assert dice_lines(summary)[2].split() == ["learn2synth", "n/a"]


def test_images_that_were_left_out(make_runs, tmp_path):
    (tmp_path / "f.tsv").write_text("participant_id\timage\treason\nsub-09\tsub-09_T1w\tis empty\n")
    left_out = read_left_out(tmp_path / "f.tsv")
    (run,) = make_runs(["synthseg"], [3])
    runs = [ComparedRun(mode="m", seed=3, model=run.model, table=run.table, left_out=left_out)]
    write_tables(runs, tmp_path / "out", baseline="m")
    assert read(tmp_path / "out" / "failures.tsv") == [
        {"mode": "m", "seed": "3", "fold": "n/a", **left_out[0]}
    ]
    (row,) = read(tmp_path / "out" / "runs.tsv")
    assert (row["status"], row["reason"]) == ("done", "not assessed: sub-09_T1w")


def test_the_answer_is_about_the_learned_synthesis(make_runs, tmp_path):
    (sentence,) = answers(write_tables(make_runs(), tmp_path, baseline="synthseg"))
    # Differences 0.10 and 0.11, seeds 0.01 apart: three parts of 0.005^2, each of one degree of
    # freedom: 0.105 ± 3.182 × 0.00866
    assert sentence == (
        "On T1w, learn2synth reached a mean Dice of 0.760 (SD over 2 seeds 0.007), synthseg 0.655 "
        "(SD over 2 seeds 0.007): learning the synthesis gained 0.105 (95 % interval 0.077 to "
        "0.133, 2 participants)."
    )


def test_a_synthesis_that_was_not_learned_gains_nothing(make_runs, tmp_path):
    runs = make_runs()
    summary = write_tables(runs, tmp_path, baseline="synthseg")
    learned = [run for run in runs if run.mode == "learn2synth"]
    for run, steps, subject in zip(
        learned, (5, 0), ("learning the synthesis", "learn2synth"), strict=True
    ):
        (run.model / "theta.json").write_text(json.dumps({"hypergradient_steps": steps}))
        (sentence,) = answers(summary, runs)
        assert f": {subject} gained 0.105" in sentence
    write_tables(runs, tmp_path, baseline="synthseg")
    found = [row["hypergradient_steps"] for row in read(tmp_path / "runs.tsv")]
    assert found == ["n/a", "n/a", "5", "0", "n/a", "n/a"]


def test_structures_are_expected_where_the_reference_has_them(make_runs, tmp_path):
    """Reference volumes 12, 0 and unknown."""
    (run,) = make_runs(["synthseg"], [0])
    lines = run.table.read_text().splitlines()
    for index, structure, reference in (("4", "cyst", "0"), ("5", "nerve", "n/a")):
        cells = ["sub-01", "sub-01_T1w", "T1w", "test", index, structure, "0", "n/a", "10"]
        lines.append("\t".join([*cells, reference, "n/a", "0.5"]))
    run.table.write_text("\n".join(lines) + "\n")
    summary = write_tables([run], tmp_path / "out", baseline="synthseg")
    found = {
        row["structure"]: (row["mean"], row["n_values"], row["n_false"])
        for row in summary
        if row["metric"] == "dice"
    }
    assert found["mean"] == ("0.65", "2", "1")
    assert found["cyst"] == ("n/a", "0", "1")
    assert found["nerve"] == ("n/a", "0", "0")


def test_a_small_table_of_dice(make_runs, tmp_path):
    lines = dice_lines(write_tables(make_runs(), tmp_path, baseline="synthseg"))
    assert lines[0].split() == ["mean", "Dice", "T1w"]
    # (0.70 + 0.60) / 2 and 0.01 more with the other seed
    assert lines[1] == "synthseg     0.655 ± 0.007"
    assert lines[2] == "learn2synth  0.760 ± 0.007 (+0.105)"


def test_one_seed_has_no_spread(make_runs, tmp_path):
    lines = dice_lines(write_tables(make_runs(seeds=[0]), tmp_path, baseline="synthseg"))
    assert lines[1] == "synthseg     0.650"


def test_the_baseline_is_synthseg_if_it_is_there():
    assert baseline_of(["learn2synth", "supervised", "synthseg"]) == "synthseg"
    assert baseline_of(["supervised", "learn2synth"]) == "supervised"


def test_a_model_that_is_none_is_named(make_runs, tmp_path):
    runs = make_runs(["synthseg"], [0, 1])
    (runs[0].model / "training.tsv").unlink()
    (runs[1].model / "config.json").write_text("{}")
    summary = write_tables(runs, tmp_path, baseline="synthseg")
    for run, row in zip(runs, read(tmp_path / "runs.tsv"), strict=True):
        assert (row["status"], row["steps"]) == ("done", "n/a")
        assert row["reason"] == f"{run.model.name}: is no model of a training; learn it again"
    assert dice_lines(summary)[1].split()[1] == "0.655"
