"""The application from end to end, as a user calls it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib

import nibabel as nb
import numpy as np
import pytest

IMAGES = {"sub-01_ses-01", "sub-01_ses-02", "sub-02", "sub-03", "sub-04"}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_image_is_segmented_on_its_own_grid(finished, phantom):
    for image in phantom.glob("sub-*/**/*_T1w.nii.gz"):
        place = finished.output / image.relative_to(phantom).parent
        name = image.name.replace("_T1w.nii.gz", "_seg-tissue_desc-T1w_dseg")
        source, dseg = nb.load(image), nb.load(place / f"{name}.nii.gz")
        assert dseg.shape == source.shape
        np.testing.assert_array_equal(dseg.affine, source.affine)
        values = {int(row["index"]) for row in rows(place / f"{name}.tsv")}
        assert set(np.unique(np.asarray(dseg.dataobj))) <= values
        sidecar = json.loads((place / f"{name}.json").read_text())
        assert sidecar["Sources"][0] == f"bids:raw:{image.relative_to(phantom).as_posix()}"


def test_pages_of_model_participants_and_group(finished, model):
    pages = {path for path in files(finished.output) if path.endswith(".html")}
    participants = {f"sub-0{n}.html" for n in range(1, 5)}
    assert participants | {"group.html", f"models/{model.name}/report.html"} <= pages
    assert f"to look at: {finished.output / 'group.html'}" in finished.said
    page = (finished.output / "sub-01.html").read_text()
    assert "sub-01/figures/sub-01_ses-02_seg-tissue_desc-T1w_dseg.png" in page


def test_tables_of_the_group(finished):
    volumes = rows(finished.output / "seg-tissue_morph.tsv")
    assert list(volumes[0]) == [
        *("participant_id", "session_id", "desc", "image", "index", "name", "volume-mm3"),
        *("soft-volume-mm3", "self-dice", "predicted-dice"),
    ]
    structures = [row for row in volumes if row["index"] != "n/a"]
    assert all(
        0 <= float(row["predicted-dice"]) <= 1 for row in structures if row["self-dice"] != "n/a"
    )
    who = {(row["participant_id"], row["session_id"]) for row in volumes}
    assert who == {("sub-01", "ses-01"), ("sub-01", "ses-02")} | {
        (f"sub-0{n}", "n/a") for n in (2, 3, 4)
    }
    dice = rows(finished.output / "seg-tissue_dice.tsv")
    assert {row["participant_id"] for row in dice} == {"sub-01", "sub-02", "sub-03"}
    assert {row["participant_id"] for row in dice if row["role"] == "validate"} == {"sub-03"}
    assert {row["role"] for row in dice} == {"learn", "validate"}
    assert all(0 <= float(row["dice"]) <= 1 for row in dice if row["dice"] != "n/a")


def test_the_run_is_recorded_without_naming_the_computer(finished):
    (record,) = (finished.output / "sub-02" / "log").rglob("l2s_pydra.toml")
    values = tomllib.loads(record.read_text())
    assert values["settings"]["config"]["training"]["steps"] == 4
    assert values["command"]["line"][:3] == ["l2s-pydra", "<bids_dir>", "<output_dir>"]
    for path in finished.output.rglob("*"):
        if path.suffix in (".toml", ".json", ".html", ".md", ".tsv", ".txt"):
            assert str(finished.work.parent) not in path.read_text(), path


def test_the_derivative_is_valid(finished, bids_validator, derivative_is_valid):
    derivative_is_valid(finished.output)
    done = bids_validator(finished.output, "--format", "json")
    issues = json.loads(done.stdout)["issues"]["issues"]
    # Nor is it only because nothing was looked at: who the authors are is always asked
    assert [issue["code"] for issue in issues] == ["TOO_FEW_AUTHORS"]


def test_a_second_run_computes_nothing(copied, app, phantom, derivative_is_valid):
    before = {path: path.stat().st_mtime_ns for path in copied.output.rglob("*_dseg.*")}
    lost = copied.output / "sub-02" / "anat" / "sub-02_seg-tissue_desc-T1w_dseg.nii.gz"
    content = lost.read_bytes()
    lost.unlink()
    altered = copied.output / "sub-03.html"
    page = altered.read_bytes()
    altered.write_text("nothing")
    pages = {path: path.stat().st_mtime_ns for path in copied.output.glob("sub-*.html")}
    run = app(phantom, copied.output, copied.work, "learn", "participant", "group")
    assert run.code == 0, run.said
    # Pages are written anew where something happened, and only there.
    written = {path.name for path, time in pages.items() if path.stat().st_mtime_ns != time}
    assert written == {"sub-02.html", "sub-03.html"}
    assert altered.read_bytes() == page
    assert "the same model was learned before" in run.said
    assert "5 image(s): 0 done, 1 restored, 4 reused, 0 failed, 0 skipped" in run.said
    assert f"{lost.relative_to(copied.output)} is missing" in run.said
    assert "segmenting" not in run.said
    assert lost.read_bytes() == content
    del before[lost]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    derivative_is_valid(copied.output)


def test_how_often_checkpoints_are_written_decides_no_result(copied, app, phantom):
    run = app(phantom, copied.output, copied.work, "learn", "--set", "training.checkpoint_every=3")
    assert run.code == 0, run.said
    assert "the same model was learned before" in run.said


def test_one_bad_image_stops_no_other(data, app, model, derivative_is_valid, tmp_path):
    good = data / "sub-04" / "anat" / "sub-04_T1w.nii.gz"
    for who in ("05", "06", "07", "08"):
        (data / f"sub-{who}" / "anat").mkdir(parents=True)
    place = "sub-{0}/anat/sub-{0}_T1w.nii.gz"
    (data / place.format("05")).write_bytes(good.read_bytes()[:2000])
    (data / place.format("06")).write_bytes(b"")
    (data / place.format("07")).symlink_to("nowhere")
    shutil.copy(good, data / place.format("08"))
    arguments = ("participant", "--skip-bids-validation", "--model", str(model))
    few = ("--participant-label", "04", "05", "06", "07", "08")
    run = app(data, tmp_path / "l2s_pydra", tmp_path / "work", *arguments, *few)
    assert run.code == 1
    derivative_is_valid(tmp_path / "l2s_pydra")
    for who in ("05", "06", "07"):
        (line,) = (line for line in run.said.splitlines() if f"ERROR: {data}/sub-{who}" in line)
        (log,) = (tmp_path / "l2s_pydra" / f"sub-{who}" / "log").rglob("crash-*.txt")
        assert str(log) in line
        assert "<bids_dir>" in log.read_text()
        page = (tmp_path / "l2s_pydra" / f"sub-{who}.html").read_text()
        assert "failed" in page
        assert str(data) not in page
    dsegs = {path.name.split("_seg")[0] for path in (tmp_path / "l2s_pydra").rglob("*_dseg.nii.gz")}
    assert dsegs == {"sub-04", "sub-08"}
    # Repaired, only this image is segmented, and the error is forgotten.
    shutil.copy(good, data / place.format("05"))
    chosen = ("--participant-label", "05", "08")
    run = app(data, tmp_path / "l2s_pydra", tmp_path / "work", *arguments, *chosen)
    assert run.code == 0, run.said
    assert "2 image(s): 1 done, 0 restored, 1 reused, 0 failed, 0 skipped" in run.said
    assert "segmenting 1 image(s)" in run.said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_training_goes_on(start, app, phantom, tmp_path, number, code):
    out, work = tmp_path / "out", tmp_path / "work"
    steps = ("--set", "training.checkpoint_every=1")
    with start(phantom, out, work, "learn", *steps) as process:
        for line in process.stderr:
            if "step 2 of" in line:
                process.send_signal(number)
                break
        said = process.stderr.read()
        assert process.wait(timeout=30) == code, said
    assert "goes on from here" in said
    assert "Traceback" not in said
    assert not list(out.glob("models/*"))
    run = app(phantom, out, work, "learn", *steps)
    assert run.code == 0, run.said
    assert "resuming at step" in run.said
    assert len(list(out.glob("models/*"))) == 1
    assert not list((work / "checkpoints").iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_checkpoint_is_written_when_all_processes_are_ended(start, phantom, tmp_path, number):
    """Schedulers signal every process of a job; the training must not follow its parent at once."""
    work = tmp_path / "work"
    steps = ("--set", "training.steps=100000", "--set", "training.checkpoint_every=100000")
    arguments = (phantom, tmp_path / "out", work, "learn", *steps)
    with start(*arguments, start_new_session=True) as process:
        for line in process.stderr:
            if "step 1 of" in line:
                break
        if number == signal.SIGTERM:
            os.killpg(process.pid, number)
        else:
            process.kill()
        process.stderr.read()  # until the last process has closed it
        process.wait(timeout=30)
    assert list((work / "checkpoints").glob("*/training.safetensors"))


def test_a_model_is_chosen_by_name(copied, app, phantom, model):
    shutil.copytree(model, copied.output / "models" / "model-other")
    one = ("--participant-label", "04", "--skip-bids-validation")
    run = app(phantom, copied.output, copied.work, "participant", *one)
    assert run.code == 65
    assert "model-other" in run.said
    assert "--model" in run.said
    run = app(phantom, copied.output, copied.work, "participant", *one, "--model", "other")
    assert run.code == 0, run.said


def test_the_parent_never_imports_torch(copied, phantom, environment):
    code = (
        "import sys; from l2s_pydra.workflows.cli import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'nipype'} & set(sys.modules); sys.exit(code)"
    )
    places = [str(phantom), str(copied.output), "participant", "group"]
    arguments = ["--participant-label", "04", "--work-dir", str(copied.work)]
    done = subprocess.run(
        [sys.executable, "-c", code, *places, *arguments, "--skip-bids-validation"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=copied.work,
    )
    assert done.returncode == 0, done.stderr


def test_a_model_from_elsewhere_and_more_outputs(data, app, model, derivative_is_valid, tmp_path):
    out = tmp_path / "l2s_pydra"
    asked = ("--entropy", "--probseg", "--res", "4mm", "--keep-largest", "--max-memory-mb", "1500")
    few = ("--participant-label", "04", "--skip-bids-validation", "--model", str(model))
    run = app(data, out, tmp_path / "work", "participant", "group", *few, *asked)
    assert run.code == 0, run.said
    names = {path.name for path in (out / "sub-04" / "anat").glob("*.nii.gz")}
    stem, suffix = "sub-04_seg-tissue", "T1w_dseg.nii.gz"
    assert {f"{stem}_desc-{suffix}", f"{stem}_res-4mm_desc-{suffix}"} <= names
    assert f"{stem}_res-4mm_desc-T1wEntropy_probseg.nii.gz" in names
    for sidecar in (out / "sub-04" / "anat").glob("*.json"):
        assert "bids:models:" not in sidecar.read_text(), sidecar
    assert "desc-T1wEntropy" in (out / "descriptions.tsv").read_text()
    derivative_is_valid(out)
    wrong = app(data, out, tmp_path / "work", "participant", *few, "--res", "1mm")
    assert wrong.code == 64
    assert "--res 4mm" in wrong.said


def test_a_page_has_images_of_all_runs(copied, app, phantom):
    one = ("--participant-label", "01", "--session-label", "02", "--skip-bids-validation")
    run = app(phantom, copied.output, copied.work, "participant", *one)
    assert run.code == 0, run.said
    page = (copied.output / "sub-01.html").read_text()
    assert "T1w, session 01" in page
    assert "T1w, session 02" in page
    assert "in the group" in page
