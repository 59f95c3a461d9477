"""What a run would do."""

import re
import shutil

import nibabel as nb
import numpy as np
import pytest


def snapshot(*folders):
    """Everything in folders: names, contents, times."""
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for folder in folders
        if folder.exists()
        for path in (folder, *folder.rglob("*"))
    }


def told(text):
    """Verb and reason by image, and the files below each."""
    verbs, files, image = {}, {}, None
    for line in text.splitlines():
        if match := re.fullmatch(r"  (segment|restore|reuse|skip) +(\S+) \((.*)\)", line):
            image = match[2]
            verbs[image], files[image] = match[1], []
        elif image and line.startswith(" " * 13):
            files[image].append(line.strip())
    return verbs, files


@pytest.fixture
def rich(phantom, tmp_path):
    """A data set of sessions, runs, acquisitions and contrasts."""
    root = tmp_path / "raw data ü"
    root.mkdir()
    shutil.copy(phantom / "dataset_description.json", root)
    image = nb.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    for name in (
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w",
        "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w",
        "sub-01/ses-b/anat/sub-01_ses-b_acq-hires_T1w",
        "sub-01/ses-b/anat/sub-01_ses-b_acq-low_T1w",
        "sub-01/ses-b/anat/sub-01_ses-b_T2w",
        "sub-02/anat/sub-02_ce-gd_T1w",
        "sub-02/anat/sub-02_FLAIR",
        "sub-02/anat/sub-02_part-phase_T1w",
    ):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nb.save(image, path)
    (root / "sub-02" / "anat" / "sub-02_T2w.nii.gz").symlink_to("annexed")
    return root


@pytest.fixture
def dry(app, model, tmp_path):
    def dry(data, *more, output=tmp_path / "out", work=tmp_path / "work"):
        line = [str(data), str(output), "participant", "-w", str(work), "--model", str(model)]
        run = app.plain(*line, "--skip-bids-validation", "--dry-run", *more)
        assert run.code == 0, run.said
        return run.printed

    return dry


def test_nothing_is_written(app, copied, data):
    (copied.work / "index").mkdir()
    places = (data, copied.output, copied.work)
    before = snapshot(*places)
    arguments = ("learn", "participant", "group", "--dry-run", "--probseg")
    run = app(data, copied.output, copied.work, *arguments)
    assert run.code == 0, run.said
    index = ("--bids-database-dir", str(copied.work / "index"))
    run = app(data, copied.output, copied.work, *arguments, *index)
    assert run.code == 0, run.said
    assert snapshot(*places) == before


def test_nothing_is_made(app, data, tmp_path):
    run = app(data, tmp_path / "out", tmp_path / "work", "learn", "participant", "--dry-run")
    assert run.code == 0, run.said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work").exists()
    assert "train    a new model" in run.printed
    assert "3 to learn from, " in run.printed
    verbs, files = told(run.printed)
    assert set(verbs.values()) == {"segment"}
    assert len(verbs) == 5
    assert (
        "sub-04/anat/sub-04_seg-tissue_desc-T1w_dseg.nii.gz"
        in files["sub-04/anat/sub-04_T1w.nii.gz"]
    )


def test_all_contrasts_sessions_runs_and_acquisitions(dry, rich):
    verbs, files = told(dry(rich, "--modality", "T1w", "T2w", "FLAIR"))
    assert len(verbs) == 8
    assert verbs.pop("sub-02/anat/sub-02_T2w.nii.gz") == "skip"
    assert set(verbs.values()) == {"segment"}
    everything = [file for several in files.values() for file in several]
    assert len(set(everything)) == len(everything)
    assert "sub-01/ses-b/anat/sub-01_ses-b_acq-hires_seg-tissue_desc-T1w_dseg.nii.gz" in everything
    assert "sub-01/ses-b/anat/sub-01_ses-b_seg-tissue_desc-T2w_morph.tsv" in everything


def test_a_filter_chooses(dry, rich, tmp_path):
    filters = tmp_path / "filters.json"
    filters.write_text('{"t1w": {"acquisition": "hires"}, "t2w": {"session": "*"}}')
    asked = ("--modality", "T1w", "T2w", "--bids-filter-file", str(filters))
    assert set(told(dry(rich, *asked))[0]) == {
        "sub-01/ses-b/anat/sub-01_ses-b_acq-hires_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz",
    }
    few = ("--participant-label", "01", "--session-label", "a")
    assert len(told(dry(rich, *few))[0]) == 2


def test_what_is_done_is_reused_and_what_is_lost_restored(app, copied, phantom):
    levels = ("learn", "participant", "group")
    run = app(phantom, copied.output, copied.work, *levels, "--dry-run")
    assert run.code == 0, run.said
    assert "the same model was learned before" in run.printed
    assert set(told(run.printed)[0].values()) == {"reuse"}
    lost = "sub-02/anat/sub-02_seg-tissue_desc-T1w_dseg.nii.gz"
    (copied.output / lost).unlink()
    verbs, files = told(app(phantom, copied.output, copied.work, *levels, "--dry-run").printed)
    assert verbs.pop("sub-02/anat/sub-02_T1w.nii.gz") == "restore"
    assert lost in files["sub-02/anat/sub-02_T1w.nii.gz"]
    assert set(verbs.values()) == {"reuse"}


def test_the_files_that_are_told_are_those_that_are_written(app, copied, data, model, tmp_path):
    out, work = tmp_path / "out", copied.work
    place = "sub-04/anat/sub-04_T1w.nii.gz"
    asked = ("participant", "--skip-bids-validation", "--model", str(model), "--probseg")
    asked += ("--entropy", "--res", "4mm", "--participant-label", "04")
    _, files = told(app(data, out, work, *asked, "--dry-run").printed)
    run = app(data, out, work, *asked)
    assert run.code == 0, run.said
    written = {
        path.relative_to(out).as_posix()
        for folder in ("anat", "figures")
        for path in (out / "sub-04" / folder).iterdir()
    }
    assert set(files[place]) == written


def test_errors_are_those_of_the_run(app, data, tmp_path):
    level = ("participant", "--model", "nobody's", "--dry-run")
    run = app(data, tmp_path / "out", tmp_path / "work", *level)
    assert run.code == 65
    assert "nobody's: no such folder" in run.said
    assert not (tmp_path / "out").exists()


def test_a_comparison_is_foreseen(app, data, tmp_path):
    modes = ("--compare", "synthseg", "learn2synth", "--seeds", "2")
    run = app(data, tmp_path / "out", tmp_path / "work", "learn", *modes, "--dry-run")
    assert run.code == 0, run.said
    assert "4 training(s)" in run.printed
    assert run.printed.count("  train ") == 4
    assert not (tmp_path / "work").exists()


def test_label_maps_only(app, copied, data, model, tmp_path):
    """And what is left out comes later, without segmenting again."""
    out = tmp_path / "out"
    asked = ("participant", "--skip-bids-validation", "--model", str(model))
    asked += ("--participant-label", "04")
    place = "sub-04/anat/sub-04_T1w.nii.gz"
    _, files = told(app(data, out, copied.work, *asked, "--seg-only", "--dry-run").printed)
    run = app(data, out, copied.work, *asked, "--seg-only")
    assert run.code == 0, run.said
    written = {path.relative_to(out).as_posix() for path in (out / "sub-04").rglob("*.*")}
    labels = {
        f"sub-04/anat/sub-04_seg-tissue_desc-T1w_dseg{e}" for e in (".nii.gz", ".json", ".tsv")
    }
    assert set(files[place]) == labels
    assert {name for name in written if "/log/" not in name and "/." not in name} == labels
    assert not list(out.glob("*.html"))
    assert (
        "reuse"
        in told(app(data, out, copied.work, *asked, "--seg-only", "--dry-run").printed)[0][place]
    )
    whole = app(data, out, copied.work, *asked)
    assert whole.code == 0, whole.said
    assert "restored" in whole.said
    assert (out / "sub-04.html").is_file()
    assert list(out.rglob("*_morph.tsv"))
    again = app(data, out, copied.work, *asked, "--seg-only")
    assert "1 reused" in again.said
    assert (out / "sub-04.html").is_file()
