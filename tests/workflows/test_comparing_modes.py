"""Comparisons from end to end, as a user calls them, with trainings that learn next to nothing."""

import contextlib
import csv
import json
import shutil
import tomllib
from pathlib import Path

import attrs
import pytest

from l2s_pydra.bids.publishing import OutputFolder
from l2s_pydra.errors import DatasetError, LabelError
from l2s_pydra.labels import LabelScheme
from l2s_pydra.workflows import comparing_modes
from l2s_pydra.workflows.cli import parse
from l2s_pydra.workflows.compared import plan
from l2s_pydra.workflows.comparing_modes import compare
from l2s_pydra.workflows.engine import claim, outcome_of
from l2s_pydra.workflows.learning import checkpoint_dir, stage_model
from l2s_pydra.workflows.session import Session

TWICE = ("learn", "--compare", "synthseg", "supervised", "--seeds", "2")
TEST = ("--test-participants", "02")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def compared(app, phantom, tmp_path_factory):
    """Two modes with two seeds; not to be changed."""
    folder = tmp_path_factory.mktemp("compared")
    run = app(phantom, folder / "l2s_pydra", folder / "work", *TWICE, *TEST)
    assert run.code == 0, run.said
    return run


def test_every_run_has_a_model_and_a_row(compared):
    runs = rows(compared.output / "comparison" / "runs.tsv")
    keys = [(row["mode"], row["seed"], row["fold"]) for row in runs]
    assert keys == [(m, s, "n/a") for s in ("0", "1") for m in ("synthseg", "supervised")]
    for row in runs:
        assert (row["status"], row["steps"]) == ("done", "4")
        config = json.loads((compared.output / row["model_dir"] / "config.json").read_text())
        assert (row["threads"], row["device"]) == (str(config["threads"]), config["device"])
        training = config["learn"]["training"]
        assert (training["mode"], str(training["seed"])) == (row["mode"], row["seed"])
        assert (compared.output / row["model_dir"] / "report.html").is_file()
        splits = rows(compared.output / row["model_dir"] / "splits.tsv")
        roles = {split["participant_id"]: split["role"] for split in splits}
        assert roles == {"sub-01": "learn", "sub-02": "test", "sub-03": "validate"}
    assert len(list((compared.output / "models").iterdir())) == 4
    assert not list((compared.work / "checkpoints").iterdir())


def test_every_image_of_the_test_participants_is_assessed_by_every_model(compared, phantom):
    images = rows(compared.output / "comparison" / "images.tsv")
    scheme = LabelScheme.read(phantom / "derivatives" / "reference" / "desc-tissue_dseg.tsv")
    assert len(images) == 4 * len(scheme)
    assert {(row["participant_id"], row["role"]) for row in images} == {("sub-02", "test")}
    assert {row["structure"] for row in images} == {"whole", *scheme.names[1:]}
    assert all(0 <= float(row["dice"]) <= 1 for row in images)


def test_the_summary_is_that_of_the_images(compared):
    images = rows(compared.output / "comparison" / "images.tsv")
    summary = rows(compared.output / "comparison" / "summary.tsv")
    assert {row["baseline"] for row in summary} == {"synthseg"}
    means = {}
    for mode in ("synthseg", "supervised"):
        mine = [float(r["dice"]) for r in images if r["mode"] == mode and r["index"] != "n/a"]
        means[mode] = sum(mine) / len(mine)
        (row,) = (
            r for r in summary if (r["mode"], r["structure"], r["metric"]) == (mode, "mean", "dice")
        )
        assert float(row["mean"]) == pytest.approx(means[mode], rel=1e-4)
        assert (row["n_seeds"], row["n_participants"]) == ("2", "1")
    assert float(row["difference"]) == pytest.approx(
        means["supervised"] - means["synthseg"], rel=1e-3, abs=1e-5
    )
    assert row["ci_low"] == "n/a"


def test_page_table_and_answer(compared):
    assert (compared.output / "comparison" / "index.html").is_file()
    assert f"to look at: {compared.output / 'comparison' / 'index.html'}" in compared.said
    assert "mean Dice   T1w" in compared.said
    assert "On T1w, supervised reached a mean Dice of" in compared.said
    page = (compared.output / "comparison" / "index.html").read_text()
    assert "../models/model-supervised" in page
    assert "&lt;bids_dir&gt;" in page
    assert list((compared.output / "comparison" / "figures").glob("*.png"))
    assert "synthseg, seed 1: trained in" in compared.said
    assert "synthseg, seed 1: step 4 of 4" in compared.said


def test_the_run_is_recorded_and_the_derivative_is_valid(compared, derivative_is_valid):
    assert "`comparison`" in (compared.output / "README.md").read_text()
    (record,) = compared.output.glob("logs/*/l2s_pydra.toml")
    settings = tomllib.loads(record.read_text())["settings"]
    assert settings["compare"] == ["synthseg", "supervised"]
    assert settings["seeds"] == 2
    for path in compared.output.rglob("*"):
        if path.suffix in (".toml", ".json", ".html", ".md", ".tsv", ".txt"):
            assert str(compared.work.parent) not in path.read_text(), path
    derivative_is_valid(compared.output)


def test_a_longer_comparison_trains_only_what_is_new(compared, app, phantom, tmp_path):
    output, work = tmp_path / "l2s_pydra", tmp_path / "work"
    shutil.copytree(compared.work, work, symlinks=True)
    run = app(phantom, output, work, *TWICE, *TEST)
    assert run.code == 0, run.said
    assert "4 of 4 run(s) were done before" in run.said
    assert "training" not in run.said
    for name in ("images", "summary", "runs"):
        first, second = (
            (folder / "comparison" / f"{name}.tsv").read_text()
            for folder in (compared.output, output)
        )
        assert first == second
    (output / "comparison" / "failures.tsv").write_text("of another comparison")
    more = ("learn", "--compare", "synthseg", "mixed", "--seeds", "1")
    run = app(phantom, output, work, *more, *TEST)
    assert run.code == 0, run.said
    assert "1 of 2 run(s) were done before" in run.said
    assert "training 1 model(s), 1 at a time" in run.said
    assert {row["mode"] for row in rows(output / "comparison" / "runs.tsv")} == {
        "synthseg",
        "mixed",
    }
    assert not (output / "comparison" / "failures.tsv").exists()


@pytest.fixture
def planned(command_line, tmp_path):
    """Plan a comparison without training anything."""

    def planned(data, *arguments):
        options = parse(command_line(data, tmp_path / "out", tmp_path / "work", *arguments))
        with claim(options.work_dir) as cache:
            session = Session(options=options, uuid="x", cache=cache, stage=tmp_path / "stage")
            return session, plan(session)

    return planned


@pytest.fixture
def opened():
    """Give sessions that may write to their output folders, for the time of a test."""
    with contextlib.ExitStack() as stack:

        def opened(session):
            folder = OutputFolder.open(session.options.output_dir, session.uuid)
            return attrs.evolve(session, folder=stack.enter_context(folder))

        yield opened


def test_one_failed_run_of_a_cross_validation_stops_no_other(planned, app, phantom, tmp_path):
    arguments = ("learn", "--compare", "supervised", "synthseg", "--folds", "3")
    session, found = planned(phantom, *arguments)
    # Where the checkpoints of one run belong, there is a file.
    place = checkpoint_dir(session, found.runs[2].learn)
    place.parent.mkdir()
    place.touch()
    run = app(phantom, tmp_path / "out", tmp_path / "work", *arguments)
    assert run.code == 1, run.said
    table = rows(run.output / "comparison" / "runs.tsv")
    assert [(row["mode"], row["fold"]) for row in table] == [
        (mode, fold) for fold in ("1", "2", "3") for mode in ("supervised", "synthseg")
    ]
    assert [row["status"] for row in table] == ["done", "done", "failed", "done", "done", "done"]
    assert place.name in table[2]["reason"]
    assert str(tmp_path) not in table[2]["reason"]
    assert list(run.output.glob("logs/*/crash-supervised-seed0-fold2.txt"))
    images = rows(run.output / "comparison" / "images.tsv")
    tested = {(row["mode"], row["fold"], row["participant_id"]) for row in images}
    assert len(tested) == 5
    assert {who for mode, _, who in tested if mode == "synthseg"} == {"sub-01", "sub-02", "sub-03"}
    (row,) = (
        row
        for row in rows(run.output / "comparison" / "summary.tsv")
        if (row["mode"], row["structure"], row["metric"]) == ("synthseg", "mean", "dice")
    )
    # What one training lacks is in no mean, so that all are of the same participants.
    assert row["n_participants"] == "2"
    (row,) = (
        row
        for row in rows(run.output / "comparison" / "summary.tsv")
        if (row["mode"], row["structure"], row["metric"]) == ("supervised", "mean", "dice")
    )
    assert (row["baseline"], row["n_participants"]) == ("synthseg", "2")
    place.unlink()
    run = app(phantom, tmp_path / "out", tmp_path / "work", *arguments)
    assert run.code == 0, run.said
    assert "5 of 6 run(s) were done before" in run.said
    assert {r["status"] for r in rows(run.output / "comparison" / "runs.tsv")} == {"done"}


def test_folds_are_no_seeds(planned, phantom):
    """What was learned differs between folds for the participants, not only for the seeds."""
    learned = {"average": {"sigma": 0.1}}
    arguments = ("learn", "--compare", "learn2synth", "synthseg", "--seeds", "2")
    for folds, expected in ((("--folds", "3"), []), ((), [learned] * 2)):
        session, found = planned(phantom, *arguments, *folds)
        model = session.path("comparison")
        model.mkdir(parents=True, exist_ok=True)
        (model / "theta.json").write_text(json.dumps(learned))
        runs = [attrs.evolve(run.compared, model=model) for run in found.runs]
        assert comparing_modes._facts(session, found, runs)["theta"] == expected


def test_without_test_participants_those_who_validate_judge(planned, phantom):
    _, found = planned(phantom, *TWICE)
    assert found.role == "validate"
    assert found.runs[0].assessed["participants"] == ["sub-03"]
    seeds = [run.trained["config"]["training"]["seed"] for run in found.runs]
    assert seeds == [0, 0, 1, 1]
    _, found = planned(phantom, *TWICE, "--random-seed", "5")
    assert found.runs[-1].compared.name == "supervised, seed 6"


def test_trainings_that_end_by_the_clock_are_those_of_their_computer(planned, phantom):
    def plan(*arguments):
        found = planned(phantom, *TWICE, "--device", "cpu", *arguments)[1]
        (version,) = {run.trained["code_version"] for run in found.runs}
        return found.crew, version

    crew, version = plan()
    assert (crew.n_procs, crew.threads) == (2, 1)
    assert plan("--max-time", "1")[1] == f"{version}, {crew.compute}"
    assert crew.compute == "cpu, 1 process(es), 1 thread(s)"


def test_how_often_checkpoints_are_written_decides_no_result(planned, phantom, tmp_path):
    """It is told to the trainings, and is no part of what they are found by."""
    found = {}
    for every in (3, 7):
        arguments = (*TWICE, "--set", f"training.checkpoint_every={every}")
        session, plan = planned(phantom, *arguments)
        resources = plan.crew.resources(session, tmp_path, "title")
        assert resources.checkpoint_every == every
        found[every] = [run.learn._checksum for run in plan.runs]
    assert found[3] == found[7]
    assert len(set(found[3])) == len(found[3])


def test_unlike_computers_are_told(planned, phantom, tmp_path, caplog):
    session, found = planned(phantom, *TWICE, "--max-time", "1")
    runs = []
    for threads, run in enumerate(found.runs, start=1):
        folder = tmp_path / f"model{threads}"
        folder.mkdir()
        facts = {"threads": min(threads, 2), "device": "cuda:0"}
        (folder / "config.json").write_text(json.dumps(facts))
        runs.append(attrs.evolve(run.compared, model=folder))
    comparing_modes._warn_of_compute(session, runs[1:])
    assert not caplog.records
    comparing_modes._warn_of_compute(session, runs)
    assert "(1 thread(s) on cuda, 2 thread(s) on cuda)" in caplog.text


def test_acquisitions_are_contrasts_of_their_own(planned, data):
    reference = data / "derivatives" / "reference"
    for folder, name in ((data, "T1w"), (reference, "desc-tissue_dseg")):
        place = folder / "sub-03" / "anat"
        shutil.copy(place / f"sub-03_{name}.nii.gz", place / f"sub-03_acq-hr_{name}.nii.gz")
    _, found = planned(data, *TWICE)
    assert found.contrasts == ["T1w", "acq-hr_T1w"]
    assert found.runs[0].assessed["names"] == ["sub-03_T1w", "sub-03_acq-hr_T1w"]
    # Contrast agents tell contrasts apart, runs do not.
    for folder, name in ((data, "T1w"), (reference, "desc-tissue_dseg")):
        place = folder / "sub-03" / "anat"
        for more in ("ce-gad", "acq-hr_ce-gad", "acq-hr_ce-gad_run-2"):
            copy = place / f"sub-03_{more}_{name}.nii.gz"
            shutil.copy(place / f"sub-03_{name}.nii.gz", copy)
    _, found = planned(data, *TWICE)
    assert found.contrasts == ["T1w", "acq-hr_T1w", "acq-hr_ce-gad_T1w", "ce-gad_T1w"]


def test_those_to_test_on_need_no_image_to_train_on(planned, data, caplog):
    for who in ("02", "03"):
        place = data / f"sub-{who}" / "anat"
        (place / f"sub-{who}_T1w.nii.gz").rename(place / f"sub-{who}_T2w.nii.gz")
    for root, name in ((data, "T1w"), (data / "derivatives" / "reference", "desc-tissue_dseg")):
        place, new = root / "sub-01" / "ses-02" / "anat", root / "sub-05" / "anat"
        new.mkdir(parents=True)
        shutil.move(place / f"sub-01_ses-02_{name}.nii.gz", new / f"sub-05_{name}.nii.gz")
    roles = ("--learn-participants", "01", "--validation-participants", "05")
    test = ("--test-participants", "02", "03", "--compare-modality", "T2w")
    _, found = planned(data, *TWICE, *roles, *test)
    assert found.role == "test"
    assert found.runs[0].assessed["participants"] == ["sub-02", "sub-03"]
    (data / "sub-02" / "anat" / "sub-02_T2w.nii.gz").unlink()
    _, found = planned(data, *TWICE, *roles, *test)
    assert found.runs[0].assessed["participants"] == ["sub-03"]
    assert "sub-02: left out of the comparison" in caplog.text


def test_contrasts_that_no_training_sees(planned, app, data, tmp_path):
    place = data / "sub-03" / "anat"
    shutil.copy(place / "sub-03_T1w.nii.gz", place / "sub-03_T2w.nii.gz")
    _, found = planned(data, *TWICE, "--compare-modality", "T1w", "T2w")
    assert found.contrasts == ["T1w", "T2w"]
    assert {path.name for path in found.runs[0].trained["images"]} == {
        *("sub-01_ses-01_T1w.nii.gz", "sub-01_ses-02_T1w.nii.gz"),
        *("sub-02_T1w.nii.gz", "sub-03_T1w.nii.gz"),
    }
    run = app(data, tmp_path / "o", tmp_path / "w", *TWICE, "--compare-modality", "FLAIR")
    assert run.code == 18
    assert "FLAIR" in run.said
    run = app(data, tmp_path / "o", tmp_path / "w", *TWICE, "--compare-modality", "T1w", "FLAIR")
    assert run.code == 65
    assert "choose other contrasts by --compare-modality" in run.said


def test_images_that_cannot_be_opened_are_left_out(planned, data):
    image = data / "sub-01" / "ses-02" / "anat" / "sub-01_ses-02_T1w.nii.gz"
    image.unlink()
    image.symlink_to("nowhere")
    roles = ("--learn-participants", "02", "--test-participants", "01")
    _, found = planned(data, *TWICE, *roles)
    assert found.runs[0].assessed["names"] == ["sub-01_ses-01_T1w"]
    trained = {path.name: path for path in found.runs[0].trained["images"]}
    assert image.name not in trained
    assert "sub-01_ses-01_T1w.nii.gz" in trained
    (missing,) = found.runs[0].compared.left_out
    assert missing["image"] == "sub-01_ses-02_T1w"
    assert "datalad get" in missing["reason"]
    with pytest.raises(DatasetError, match=r"sub-01_ses-02_T1w.*datalad get"):
        planned(data, *TWICE)
    # Who is tested on in one fold learns in another.
    with pytest.raises(DatasetError, match=r"sub-01_ses-02_T1w.*datalad get"):
        planned(data, *TWICE, *roles, "--folds", "3")


def test_what_fails_after_training_stops_no_other(
    compared, planned, opened, phantom, tmp_path, monkeypatch
):
    shutil.copytree(compared.work, tmp_path / "work", symlinks=True)
    session, found = planned(phantom, *TWICE, *TEST)
    session = opened(session)
    bad = Path(outcome_of([found.runs[0].learn], session.cache).outputs.model)

    def stage(session, folder):
        if folder == bad:
            raise OSError("the disk is full")
        return stage_model(session, folder)

    monkeypatch.setattr(comparing_modes, "stage_model", stage)
    there, (failure,) = compare(session)
    assert there
    assert failure.reason == "OSError: the disk is full"
    folder = session.options.output_dir / "comparison"
    first, *others = rows(folder / "runs.tsv")
    assert (first["status"], first["model"], first["reason"]) == ("failed", "n/a", failure.reason)
    assert {row["status"] for row in others} == {"done"}
    assert len(list((session.options.output_dir / "models").iterdir())) == 3

    def broken(session, run):
        raise RuntimeError("no memory left")

    # A comparison of nothing takes the place of the one before.
    monkeypatch.setattr(comparing_modes, "_staged", broken)
    there, failures = compare(session)
    assert (there, len(failures)) == (False, 4)
    table = rows(folder / "runs.tsv")
    assert {row["reason"] for row in table} == {"RuntimeError: no memory left"}
    assert rows(folder / "images.tsv") == []
    assert "no memory left" in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("1\tliquor\n2\tgrey\n", "shares no name with .*column mapping"),
        ("1\tCSF\n2\tgrey\n", r"label 2 \(grey\) has no counterpart.*column mapping"),
        ("1\tliquor\n9\tgrey\n", r"label 9 \(grey\) has no counterpart"),
    ],
)
def test_references_of_other_names_are_refused_before_training(planned, data, table, said):
    other = data / "derivatives" / "other"
    shutil.copytree(data / "derivatives" / "reference", other)
    names = other / "desc-tissue_dseg.tsv"
    names.write_text("index\tname\n" + table)
    with pytest.raises(LabelError, match=said) as error:
        planned(data, *TWICE, "--references", str(other))
    assert str(names) in str(error.value)
    names.write_text("index\tname\tmapping\n1\tliquor\t1\n2\tgrey\t2\n")
    _, found = planned(data, *TWICE, "--references", str(other))
    assert found.runs[0].assessed["reference_table"] == names


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--compare", "synthseg"), "two modes"),
        (("--compare", "synthseg", "synthseg"), "two modes"),
        (("--compare", "synthseg", "sinthseg"), "sinthseg"),
        ((*TWICE[1:], "--mode", "mixed"), "exclude each other"),
        ((*TWICE[1:], "--preview", "2"), "exclude each other"),
        (("--compare", "synthseg", "mixed", "--seeds", "0"), "'0'"),
        (("--compare", "synthseg", "mixed", "--folds", "1"), "two folds"),
        (("--seeds", "2"), "--compare"),
        (("--folds", "2"), "--compare"),
        (("--compare-modality", "T2w"), "--compare"),
        (("--max-time", "0"), "max_minutes"),
        (("--patience", "0"), "'0'"),
    ],
)
def test_wrong_usage_is_said_at_once(phantom, tmp_path, more, said):
    labels = ("--real-labels", str(phantom / "derivatives" / "reference"))
    with pytest.raises(ValueError, match=said):
        parse([str(phantom), str(tmp_path / "out"), "learn", *labels, *more])


def test_later_levels_need_a_model_by_name(phantom, tmp_path):
    labels = ("--real-labels", str(phantom / "derivatives" / "reference"))
    arguments = [str(phantom), str(tmp_path / "out"), "learn", "participant", *labels, *TWICE[1:]]
    with pytest.raises(ValueError, match="--model NAME"):
        parse(arguments)
    assert parse([*arguments, "--model", "x"]).compare == ("synthseg", "supervised")
    with pytest.raises(ValueError, match="add the level learn"):
        parse([str(phantom), str(tmp_path / "out"), "participant", *TWICE[1:]])


def test_budgets_are_settings(phantom, tmp_path):
    labels = ("--real-labels", str(phantom / "derivatives" / "reference"))
    budget = ("--max-time", "1.5", "--patience", "3")
    options = parse([str(phantom), str(tmp_path / "out"), "learn", *labels, *budget])
    assert options.config.training.max_minutes == 1.5
    assert options.config.training.patience == 3
