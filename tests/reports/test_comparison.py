"""The page of a comparison: numbers, words, and pages that hold with little and with much."""

import json

import numpy as np
import pytest

from l2s_pydra.errors import DatasetError
from l2s_pydra.reports.answers import answer, caveats, standing, was_learned
from l2s_pydra.reports.comparison import write_comparison
from l2s_pydra.reports.comparison_figures import paired_dots
from l2s_pydra.steps import compare
from l2s_pydra.steps.assess import COLUMNS
from l2s_pydra.steps.compare import ComparedRun

NAMES = ("summary", "participants", "images", "runs")


def assessed(path, rows):
    """Write a table as the step ``assess`` writes it."""
    lines = ["\t".join(COLUMNS)]
    for who, contrast, role, structure, dice, distance, *volumes in rows:
        cells = [who, f"{who}_{contrast}", contrast, role, "1", structure, dice, distance]
        lines.append("\t".join(map(str, [*cells, *(volumes or (10, 12)), "0.1", "0.05"])))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_tables(
    folder, *, modes=("learn2synth", "synthseg"), contrasts=("T1w",), structures=("stem",),
    people=("sub-1", "sub-2", "sub-3"), seeds=(0, 1, 2), role="test", failed=(), gain=0.017,
    fold=None, steps=20, without=(),
):  # fmt: skip
    """Tables whose Dice is 0.7, plus ``gain`` for all modes but the last, plus 0.004 each seed."""
    runs = []
    folder.mkdir(exist_ok=True)
    for m, mode in enumerate(modes):
        for seed in seeds:
            if (mode, seed) in failed:
                reason = "out of memory"
                runs.append(ComparedRun(mode=mode, seed=seed, fold=fold, reason=reason))
                continue
            model = folder / f"run-{m}-{seed}"
            model.mkdir(exist_ok=True)
            config = {"name": f"m{m}-{seed}", "best_dice": 0.75, "seconds": 60 * m + 30}
            (model / "config.json").write_text(json.dumps(config))
            (model / "training.tsv").write_text("step\n100\n")
            (model / "theta.json").write_text(json.dumps({"hypergradient_steps": steps}))
            dice = 0.7 + gain * (m < len(modes) - 1) + 0.004 * (seed - np.mean(seeds))
            rows = [
                (who, contrast, role, structure, dice + 0.01 * (p - (len(people) - 1) / 2), 2)
                for contrast in contrasts
                for p, who in enumerate(people)
                for structure in structures
                if (mode, seed, who) not in without
            ]
            table = assessed(folder / f"run-{m}-{seed}.tsv", rows)
            runs.append(ComparedRun(mode=mode, seed=seed, fold=fold, model=model, table=table))
    compare.write_tables(runs, folder, baseline="synthseg")
    return folder


FACTS = {"baseline": "synthseg", "version": "1.2", "dataset": "Phantom", "steps": 100}


def test_the_answer_comes_first_with_its_numbers(tmp_path, read_page):
    folder = write_tables(tmp_path / "comparison", contrasts=("T1w", "T2w"))
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    for text in (
        "On T1w, learn2synth reached a mean Dice of 0.717 (SD over 3 seeds 0.004), synthseg 0.700",
        "learning the synthesis gained 0.017 (95 % interval 0.008 to 0.026, 3 participants).",
        "On T2w, learn2synth",
        "There are 3 participants: intervals rest",
        "learn2synth 0.717 ± 0.004 ▲ +0.017 (better than the baseline) (+0.008 to +0.026)",
        "synthseg (baseline) 0.700 ± 0.004",
        "Numbers: T1w",
        "sub-2 +0.017",
        "learn2synth T1w 0.717 ± 0.004 2.00 ± 0.00",
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
        ({"people": ("sub-1",)}, ["+0.017 on one participant allows no interval"]),
        ({"seeds": (0,)}, ["(one seed)", "Each mode was trained with one seed only"]),
        ({"seeds": (0,)}, ["difference of +0.017 (3 participants) is that of one training each"]),
        ({"seeds": (0, 1)}, ["Two seeds tell little"]),
        ({"fold": 2}, ["Dots are seeds, each over all folds,"]),
        ({"steps": 0}, [": learn2synth gained 0.017", "No training of learn2synth changed its"]),
        (
            {"without": [("learn2synth", 1, "sub-2")]},
            ["On T1w, 2 of 3 participants can be compared", "There are 2 participants: "],
        ),
        (
            {"failed": [("synthseg", 0), ("synthseg", 2)]},
            ["is that of one training of synthseg,", "synthseg was trained with one seed only"],
        ),
        ({"role": "validate"}, ["judged on also chose which weights"]),
        ({"gain": 0.003}, ["+0.003 cannot be told from chance", "includes 0; 3 participants"]),
        ({"gain": -0.05}, ["lost 0.050 (95 % interval 0.041 to 0.059", "▼ −0.050"]),
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


def test_one_training_each_is_not_called_better(tmp_path, read_page):
    folder = write_tables(tmp_path, seeds=(0,), gain=0.1)
    page = read_page(write_comparison(folder, tmp_path / "page", facts=FACTS))
    glance = page.words[page.words.index("learn2synth 0.800") :][:40]
    assert glance.startswith("learn2synth 0.800 +0.100 synthseg")
    for word in ("gained", "lost", "(better", "(worse"):
        assert word not in page.words


def test_nothing_worked(tmp_path, read_page):
    modes = ("learn2synth", "synthseg")
    folder = write_tables(tmp_path, failed=[(m, s) for m in modes for s in (0, 1, 2)])
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    assert "No training could be judged." in page.words
    assert "6 trainings failed" in page.words
    assert page.images == []


@pytest.mark.parametrize(
    ("failing", "text"),
    [
        ("learn2synth", "there is no result of learn2synth; synthseg reached a mean Dice of 0.700"),
        ("synthseg", "0.717 (SD over 3 seeds 0.004); there is no result of synthseg"),
    ],
)
def test_a_mode_without_a_result(tmp_path, read_page, failing, text):
    folder = write_tables(tmp_path, failed=[(failing, seed) for seed in range(3)])
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    assert text in page.words


def test_what_is_missing_is_said_beside_the_mean(tmp_path, read_page):
    """One mode misses a structure of one participant, and finds one where there is none."""
    runs = []
    for mode, distance, false in (("learn2synth", "n/a", 3), ("synthseg", 9, 0)):
        table = assessed(
            tmp_path / f"{mode}.tsv",
            [
                ("a", "T1w", "test", "stem", 0.5, 2),
                ("b", "T1w", "test", "stem", 0.0, distance),
                ("a", "T1w", "test", "cyst", 0.0 if false else "n/a", "n/a", false, 0),
            ],
        )
        runs.append(ComparedRun(mode=mode, seed=0, table=table))
    compare.write_tables(runs, tmp_path, baseline="synthseg")
    page = read_page(write_comparison(tmp_path, tmp_path / "page", facts=FACTS))
    assert "learn2synth T1w 0.250 1 false positive 2.00 1 of 2 defined" in page.words
    assert "synthseg T1w 0.250 2.00 0.100" in page.words


def test_a_comparison_of_everything(tmp_path, read_page):
    modes = [f"mode{i}" for i in range(4)]
    folder = write_tables(
        tmp_path,
        modes=(*modes, "synthseg"),
        contrasts=("T1w", "T2w", "FLAIR"),
        structures=[f"structure_{i}" for i in range(30)],
        seeds=(0,),
    )
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    assert "By structure (450 rows)" in page.words
    assert page.words.count("mode3 T2w") == 31
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
    folder = write_tables(tmp_path / "comparison", seeds=(0,))
    (tmp_path / "models" / "model-m0-0").mkdir(parents=True)
    (tmp_path / "models" / "model-m0-0" / "report.html").touch()
    page = read_page(write_comparison(folder, folder, facts=FACTS))
    assert "../models/model-m0-0/report.html" in page.links
    assert not [link for link in page.links if "m1-0" in link]


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


@pytest.mark.parametrize("name", [f"{name}.tsv" for name in NAMES])
def test_broken_tables_are_named(tmp_path, name):
    folder = write_tables(tmp_path)
    (folder / name).write_text("mode\n")
    with pytest.raises(DatasetError, match=rf"{name}: table lacks the column"):
        write_comparison(folder, folder, facts=FACTS)


def test_a_baseline_without_a_result():
    rows = {"learn2synth": {"mean": "0.7", "sd_seeds": "n/a", "n_seeds": "1"}}
    text = answer("T1w", rows, "synthseg", "learn2synth")
    assert text.endswith("there is no result of synthseg to compare it with.")


@pytest.mark.parametrize(
    ("ends", "word"), [((0.1, 0.2), "better"), ((-0.2, -0.1), "worse"), ((-0.1, 0.1), "unclear")]
)
def test_standing_follows_the_interval(ends, word):
    low, high = map(str, ends)
    assert standing({"ci_low": low, "ci_high": high}) == word
    assert standing({"ci_low": "n/a", "ci_high": "n/a"}) == standing(None) == ""


def caveats_of(**changes):
    """Caveats of a comparison that needs none, but for ``changes``."""
    given = {
        "roles": ["test"],
        "seeds": {"synthseg": 3, "learn2synth": 4},
        "participants": {"T1w": (20, 20), "T2w": (12, 12)},
        "runs": [{"mode": "learn2synth", "status": "done", "hypergradient_steps": "9"}] * 6,
    }
    return caveats(**{**given, **changes})


def test_much_data_needs_no_caveat():
    assert caveats_of() == []


def test_caveats_hide_no_other():
    """The mode with the fewest seeds, and contrasts with one, few and many participants."""
    (text,) = caveats_of(seeds={"synthseg": 1, "mixed": 1, "learn2synth": 3})
    assert text.startswith("synthseg and mixed were trained with one seed only.")
    texts = caveats_of(participants={"T1w": (1, 1), "T2w": (3, 8), "PDw": (4, 4), "FLAIR": (9, 9)})
    assert len(texts) == 3
    assert texts[0].startswith("On T2w, 3 of 8 participants can be compared")
    assert texts[1].startswith("On T1w there is one participant only")
    assert texts[2].startswith("On T2w and PDw are 3 to 4 participants")


def test_a_synthesis_that_never_moved_gains_nothing():
    runs = [
        {"mode": mode, "status": "done", "hypergradient_steps": steps}
        for mode, steps in (("synthseg", "n/a"), ("learn2synth", "0"), ("learn2synth", "7"))
    ]
    (text,) = caveats_of(runs=runs)
    assert text.startswith("1 of 2 trainings of learn2synth never changed its synthesis")
    assert not was_learned(runs, "learn2synth")
    assert was_learned(runs[2:], "learn2synth")
    assert was_learned(runs[:1], "synthseg")


def test_intervals_are_drawn_to_their_ends(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "l2s_pydra.reports.comparison_figures.save_png",
        lambda figure, path: drawn.update({path: [axes.get_xlim() for axes in figure.axes]}),
    )
    ends = {"T1w": {"a": (0.01, -0.3, 0.32), "b": (0.02, np.nan, np.nan)}}
    paired_dots({"T1w": {"a": [0.0, 0.02]}}, ends, "figure.png")
    ((low, high),) = drawn["figure.png"]
    assert low < -0.3 < 0.32 < high
