"""The application on data sets of many legal shapes: what is segmented, under which names."""

import csv
from urllib.parse import unquote

import pytest

LONG = "PilotStudyOfTheLongestLabelThatAnybodyHasSeenInAnArchive2026"
IMAGES = {
    "longitudinal": {
        "sub-01/ses-post/anat/sub-01_ses-post_acq-fast_run-01_{}_desc-T1w",
        "sub-01/ses-post/anat/sub-01_ses-post_{}_desc-T2w",
        "sub-01/ses-pre/anat/sub-01_ses-pre_run-1_{}_desc-T1w",
        "sub-01/ses-pre/anat/sub-01_ses-pre_run-2_{}_desc-T1w",
        "sub-01/ses-pre/anat/sub-01_ses-pre_{}_desc-T2w",
        "sub-02/anat/sub-02_acq-iso_ce-gado_rec-norm_{}_desc-T1w",
        "sub-02/anat/sub-02_acq-iso_{}_desc-T1w",
    },
    "labels": {
        "sub-1/anat/sub-1_{}_desc-T1w",
        "sub-01/anat/sub-01_{}_desc-T1w",
        "sub-1/ses-1+2/anat/sub-1_ses-1+2_acq-a+b_run-007_{}_desc-T1w",
        "sub-1/ses-1+2/anat/sub-1_ses-1+2_acq-A_run-10_{}_desc-T1w",
        "sub-control+pilot/anat/sub-control+pilot_{}_desc-T1w",
        f"sub-{LONG}/anat/sub-{LONG}_{{}}_desc-T1w",
    },
    "nested": {"sub-01/anat/sub-01_{}_desc-T1w", "sub-02/anat/sub-02_{}_desc-T1w"},
    "contrasts": {
        "sub-01/anat/sub-01_{}_desc-T1w",
        "sub-01/anat/sub-01_acq-defaced_rec-deface_{}_desc-T1w",
        "sub-01/anat/sub-01_acq-second_{}_desc-T1w",
        "sub-01/anat/sub-01_part-mag_{}_desc-T2w",
        "sub-02/anat/sub-02_echo-1_{}_desc-T1w",
        "sub-02/anat/sub-02_echo-2_{}_desc-T1w",
        "sub-03/anat/sub-03_{}_desc-T1w",
        "sub-03/anat/sub-03_{}_desc-UNIT1",
    },
    "datalad": {"sub-01/anat/sub-01_{}_desc-T1w"},
}
"""Of each data set: stem of the label map of each image."""
OPTIONS = {
    "longitudinal": ["--modality", "T1w", "T2w"],
    "labels": ["--participant-label", "1", "01", "sub-control+pilot", LONG],
    "nested": [],
    "contrasts": ["--modality", "T1w", "T2w", "UNIT1"],
    "datalad": [],
}


@pytest.fixture(scope="module")
def run(app, model, varied, tmp_path_factory):
    """Run the levels participant and group on a data set, once."""
    done = {}

    def run(name):
        if name not in done:
            place = tmp_path_factory.mktemp(name)
            levels = ("participant", "group", "--model", str(model), "--nprocs", "1")
            output, work = place / "l2s_pydra", place / "work"
            done[name] = app(varied(name), output, work, *levels, *OPTIONS[name])
        return done[name]

    return run


def stems(folder, pattern, segmented="seg-tissue"):
    found = (path.relative_to(folder).as_posix() for path in folder.glob(f"sub-*/**/{pattern}"))
    return {path.rpartition("_")[0].replace(segmented, "{}") for path in found}


@pytest.mark.parametrize("name", IMAGES)
def test_every_image_that_was_asked_for_and_no_other(name, run, derivative_is_valid):
    done = run(name)
    assert done.code == (name == "datalad"), done.said
    for suffix in ("dseg.nii.gz", "dseg.json", "dseg.tsv", "morph.tsv"):
        assert stems(done.output, f"anat/*_{suffix}") == IMAGES[name]
    assert stems(done.output, "*_mask.nii.gz", "label-brain") == IMAGES[name]
    derivative_is_valid(done.output)


@pytest.mark.parametrize("name", IMAGES)
def test_the_group_has_a_row_for_each_image(name, run):
    with (run(name).output / "seg-tissue_morph.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len({(row["participant_id"], row["session_id"], row["image"]) for row in rows}) == len(
        IMAGES[name]
    )
    assert {row["participant_id"] for row in rows} == {path.split("/")[0] for path in IMAGES[name]}


def test_the_raw_data_set_is_left_as_it_was(run, varied):
    for name in IMAGES:
        before = set(varied(name).rglob("*"))
        assert run(name).output.is_dir()
        assert set(varied(name).rglob("*")) == before


def test_an_image_that_was_not_fetched_is_told(run):
    done = run("datalad")
    assert "datalad get" in done.said
    assert list((done.output / "sub-02" / "log").rglob("crash-sub-02_T1w.txt"))
    assert "datalad get" in (done.output / "sub-02.html").read_text()


def test_labels_that_look_alike_are_not_mixed_up(run):
    pages = {path.name for path in run("labels").output.glob("sub-*.html")}
    assert pages == {"sub-01.html", "sub-1.html", "sub-control+pilot.html", f"sub-{LONG}.html"}
    page = unquote((run("labels").output / "sub-1.html").read_text())
    assert "sub-1_ses-1+2_acq-A_run-10_seg-tissue_desc-T1w_dseg.png" in page
    assert "sub-01_" not in page
