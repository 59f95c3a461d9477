"""The page of a comparison: numbers, words, and pages that hold with little and with much."""

import csv

import numpy as np
import pytest

from l2s_pydra.errors import DatasetError
from l2s_pydra.reports.answers import answer, caveats, standing
from l2s_pydra.reports.comparison import write_comparison

IMAGES = (
    "mode", "seed", "fold", "participant_id", "image", "contrast", "role", "index", "structure",
    "dice", "hd95_mm", "volume_mm3", "reference_volume_mm3", "volume_error", "ece",
)  # fmt: skip
SUMMARY = (
    "contrast", "structure", "metric", "mode", "mean", "sd_seeds", "n_seeds", "n_participants",
    "baseline", "difference", "ci_low", "ci_high",
)  # fmt: skip
RUNS = (
    "mode", "seed", "fold", "model", "validation_dice", "steps", "seconds", "status", "reason",
    "model_dir",
)  # fmt: skip
METRICS = ("dice", "hd95_mm", "volume_error", "ece")


def write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", restval="n/a")
        writer.writeheader()
        writer.writerows(rows)


def summary_row(contrast, mode, mean, difference=None, **changes):
    row = {
        "contrast": contrast,
        "structure": "mean",
        "metric": "dice",
        "mode": mode,
        "mean": mean,
        "sd_seeds": 0.004,
        "n_seeds": 3,
        "n_participants": 3,
        "baseline": "synthseg",
    }
    if difference is not None:
        row |= dict(zip(("difference", "ci_low", "ci_high"), difference, strict=True))
    return {**row, **changes}


def write_tables(
    folder, *, modes=("learn2synth", "synthseg"), contrasts=("T1w",), structures=("stem",),
    people=("sub-1", "sub-2", "sub-3"), seeds=(0, 1, 2), role="test", failed=(), gain=0.017,
):  # fmt: skip
    """Tables whose Dice is 0.7, plus ``gain`` for all modes but the last."""
    images, summary, runs = [], [], []
    for m, mode in enumerate(modes):
        bonus = gain if m < len(modes) - 1 else 0.0
        for seed in seeds:
            lost = (mode, seed) in failed
            runs.append(
                {
                    "mode": mode, "seed": seed, "model": "n/a" if lost else f"{mode}-{seed}",
                    "validation_dice": "n/a" if lost else 0.75, "steps": 100, "seconds": 60.0 * m + 30,
                    "status": "failed" if lost else "done",
                    "reason": "out of memory" if lost else "n/a",
                }
            )  # fmt: skip
            if lost:
                continue
            images += [
                {
                    "mode": mode, "seed": seed, "participant_id": who, "image": f"{who}_{contrast}",
                    "contrast": contrast, "role": role, "index": i, "structure": structure,
                    "dice": 0.7 + bonus + 0.01 * p, "hd95_mm": 2.0, "volume_error": 0.1, "ece": 0.05,
                }
                for contrast in contrasts
                for p, who in enumerate(people)
                for i, structure in enumerate(structures, start=1)
            ]  # fmt: skip
        several = len(people) > 1
        for contrast in contrasts:
            for structure in ("mean", *structures):
                for metric in METRICS:
                    row = summary_row(
                        contrast, mode, 0.7 + bonus, structure=structure, metric=metric,
                        n_seeds=len(seeds), n_participants=len(people),
                        sd_seeds=0.004 if len(seeds) > 1 else "n/a",
                    )  # fmt: skip
                    if m < len(modes) - 1:
                        row["difference"] = bonus
                    if m < len(modes) - 1 and several:
                        row |= {"ci_low": bonus - 0.012, "ci_high": bonus + 0.012}
                    summary.append(row)
    write(folder / "images.tsv", IMAGES, images)
    write(folder / "summary.tsv", SUMMARY, summary)
    write(folder / "runs.tsv", RUNS, runs)
    return folder


FACTS = {"baseline": "synthseg", "version": "1.2", "dataset": "Phantom", "steps": 100}


def test_the_answer_comes_first_with_its_numbers(tmp_path, read_page):
    folder = write_tables(tmp_path / "comparison", contrasts=("T1w", "T2w"))
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    for text in (
        "On T1w, learn2synth reached a mean Dice of 0.717 (SD over 3 seeds 0.004), synthseg 0.700",
        "learning the synthesis gained 0.017 (95 % interval 0.005 to 0.029, 3 participants).",
        "On T2w, learn2synth",
        "There are 3 participants: intervals rest",
        "learn2synth 0.717 ± 0.004▲ +0.017 (better than the baseline) (+0.005 to +0.029)",
        "synthseg (baseline) 0.700 ± 0.004",
        "Numbers: T1w",
        "sub-2 +0.017",
        "learn2synth T1w 0.717 ± 0.004 0.72 ± 0.00",
        "learn2synth 3 100 30.0 s",
        "Data set Phantom",
    ):
        assert text in page.words
    assert {image["src"] for image in page.images} == {
        f"figures/{name}.png" for name in ("dice", "paired", "structures")
    }
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.png" for name in ("dice", "paired", "structures")
    }
    assert page.words.index("On T1w") < page.words.index("Overlap Mean Dice")


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"people": ("sub-1",)}, ["gained 0.017 on one participant, which allows no interval"]),
        ({"seeds": (0,)}, ["(one seed)", "trained with one seed only"]),
        ({"role": "validate"}, ["judged on also chose which weights"]),
        ({"gain": 0.003}, ["+0.003 cannot be told from chance", "includes 0; 3 participants"]),
        ({"gain": -0.05}, ["lost 0.050 (95 % interval 0.038 to 0.062", "▼ −0.050"]),
        ({"modes": ("synthseg",)}, ["there is no other mode"]),
        ({"modes": ("mixed", "synthseg")}, ["mixed gained 0.017"]),
        ({"failed": [("learn2synth", 1)]}, ["1 of 6 trainings failed", "seed 1: out of memory"]),
    ],
)
def test_what_a_reader_must_know_is_said(tmp_path, read_page, changes, texts):
    folder = write_tables(tmp_path, **changes)
    page = read_page(write_comparison(folder, tmp_path / "page", facts=FACTS))
    for text in texts:
        assert text in page.words


def test_nothing_worked(tmp_path, read_page):
    modes = ("learn2synth", "synthseg")
    folder = write_tables(tmp_path, contrasts=(), failed=[(m, s) for m in modes for s in (0, 1, 2)])
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    assert "No training could be judged." in page.words
    assert "6 trainings failed" in page.words
    assert page.images == []


def test_a_mode_without_a_result(tmp_path, read_page):
    folder = write_tables(tmp_path)
    rows = [summary_row("T1w", "synthseg", 0.7), summary_row("T1w", "learn2synth", "n/a")]
    write(folder / "summary.tsv", SUMMARY, rows)
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    assert "there is no result of learn2synth; synthseg reached a mean Dice of 0.700" in page.words


def test_a_comparison_of_everything(tmp_path, read_page):
    modes = [f"mode{i}" for i in range(7)]
    folder = write_tables(
        tmp_path,
        modes=(*modes, "synthseg"),
        contrasts=("T1w", "T2w", "FLAIR"),
        structures=[f"structure_{i}" for i in range(30)],
        seeds=(0,),
    )
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    assert "By structure (720 rows)" in page.words
    assert page.words.count("mode6 T2w") == 31
    assert "structure 29" in page.words


def test_names_are_escaped(tmp_path, read_page):
    evil = "<script>alert(1)</script>"
    folder = write_tables(
        tmp_path, modes=(evil, "synthseg"), contrasts=(evil,), structures=(evil,), people=(evil,)
    )
    facts = {**FACTS, "dataset": evil, "test": [evil], "command": ["run", evil]}
    page = read_page(write_comparison(folder, folder, facts=facts))
    assert "<script>alert" not in page.source
    assert page.words.count(evil) > 8


def test_models_are_linked_to_their_pages(tmp_path, read_page):
    folder = write_tables(tmp_path / "comparison")
    rows = [
        {"mode": "learn2synth", "seed": 0, "model": "m0", "status": "done", "model_dir": "models/m 0"},
        {"mode": "synthseg", "seed": 0, "model": "m1", "status": "done", "model_dir": "models/m1"},
        {"mode": "synthseg", "seed": 1, "model": "m2", "status": "done"},
    ]  # fmt: skip
    write(folder / "runs.tsv", RUNS, rows)
    (tmp_path / "models" / "m 0").mkdir(parents=True)
    (tmp_path / "models" / "m 0" / "report.html").touch()
    facts = {**FACTS, "links": {"m2": "../elsewhere/m2.html"}}
    page = read_page(write_comparison(folder, folder, facts=facts))
    assert "../models/m%200/report.html" in page.links
    assert "../elsewhere/m2.html" in page.links
    assert not [link for link in page.links if "m1" in link]


def test_learned_values_of_several_seeds_are_shown(tmp_path, read_page):
    rng = np.random.default_rng(0)
    theta = [
        {"start": {"sigma": 0.1}, "average": {"sigma": 0.2 + 0.01 * x, "bias": 0.3 - 0.02 * x}}
        for x in rng.standard_normal(5)
    ]
    folder = write_tables(tmp_path)
    page = read_page(write_comparison(folder, folder, facts={**FACTS, "theta": theta}))
    assert "sigma and bias (correlation -1.00)" in page.words
    page = read_page(write_comparison(folder, folder, facts={**FACTS, "theta": theta[:2]}))
    assert "From four seeds on" in page.words
    page = read_page(write_comparison(folder, folder, facts={**FACTS, "theta": theta[:1]}))
    assert "the spread between trainings is not known" in page.words


def test_the_same_tables_give_the_same_page(tmp_path):
    folder = write_tables(tmp_path / "tables")
    one = write_comparison(folder, tmp_path / "a", facts=FACTS)
    two = write_comparison(folder, tmp_path / "b", facts=FACTS)
    assert one.read_bytes() == two.read_bytes()
    for path in (tmp_path / "a" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()


@pytest.mark.parametrize("name", ["images.tsv", "summary.tsv", "runs.tsv"])
def test_broken_tables_are_named(tmp_path, name):
    folder = write_tables(tmp_path)
    (folder / name).write_text("mode\n")
    with pytest.raises(DatasetError, match=rf"{name}: table lacks the column"):
        write_comparison(folder, folder, facts=FACTS)


def test_a_baseline_without_a_result():
    rows = {"learn2synth": {k: str(v) for k, v in summary_row("T1w", "learn2synth", 0.7).items()}}
    text = answer("T1w", rows, "synthseg", "learn2synth")
    assert text.endswith("there is no result of synthseg to compare it with.")


@pytest.mark.parametrize(
    ("ends", "word"), [((0.1, 0.2), "better"), ((-0.2, -0.1), "worse"), ((-0.1, 0.1), "unclear")]
)
def test_standing_follows_the_interval(ends, word):
    low, high = map(str, ends)
    assert standing({"difference": "0.1", "ci_low": low, "ci_high": high}) == word
    assert standing({"difference": "n/a", "ci_low": "n/a", "ci_high": "n/a"}) == ""


def test_much_data_needs_no_caveat():
    assert caveats(roles=["test"], seeds=3, participants={"T1w": 20}, failed=0, runs=6) == []
