import math

import pytest

from l2s_pydra.reports.pages import group_page, model_page, participant_page
from l2s_pydra.reports.statistics import ImageValue

MODEL = {"name": "learn2synth1a2b", "sha256": "ab" * 32, "version": "0.1.0"}
RUN = {
    "run": {"id": "20260101_x", "system": "Linux", "seed": 0},
    "software": {"l2s_pydra": "0.1.0", "torch": "2.4"},
    "command": {"line": ["l2s-pydra", "<bids_dir>", "out", "participant"]},
    "settings": {"device": "cpu"},
}


def an_image(**changes):
    image = {
        "image": "sub-01_ses-a_T1w.nii.gz",
        "source": "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "entities": {"subject": "01", "session": "a", "suffix": "T1w"},
        "dseg": "sub-01/ses-a/anat/sub-01_ses-a_seg-x_desc-T1w_dseg.nii.gz",
        "figure": "sub-01/figures/sub-01_ses-a_seg-x_desc-T1w_dseg.png",
        "volumes": [
            {"index": 1, "name": "white_matter", "volume_mm3": 300e3, "color": "#e69f00"},
            {"index": 2, "name": "stem", "volume_mm3": 100e3},
        ],
        "warnings": [],
        "model": dict(MODEL),
        "shape": [10, 11, 12],
        "spacing_mm": [1.0, 1.0, 1.2],
        "seconds": 3.0,
    }
    return {**image, **changes}


def test_participant_page_says_it_all(tmp_path, read_page):
    path = participant_page(
        "sub-01",
        [an_image(), an_image(entities={"subject": "01", "suffix": "T2w"}, warnings=["cut off"])],
        tmp_path / "new" / "sub-01.html",
        run=RUN,
        failures=[{"file": "sub-01/x.nii", "reason": "truncated; copy it again", "log": "l.txt"}],
        links=[{"href": "group.html", "text": "Group"}],
    )
    page = read_page(path)
    assert len(page.images) == 2
    assert page.images[0]["src"] == an_image()["figure"]
    for text in (
        "T1w, session a",
        "To look at cut off",
        "1 image failed sub-01/x.nii: truncated; copy it again",
        "white matter 1 300.0 n/a 75.0 %",
        "All structures 400.0",
        "l2s-pydra '<bids_dir>' out participant",
        "10 × 11 × 12 voxels of 1 × 1 × 1.2 mm",
        MODEL["sha256"],
        "torch 2.4",
    ):
        assert text in page.words
    assert "group.html" in page.links
    assert "l.txt" in page.links


@pytest.mark.parametrize("failures", [[], [{"file": "a", "reason": "b"}]])
def test_participant_without_an_image(tmp_path, read_page, failures):
    page = read_page(participant_page("sub-01", [], tmp_path / "a.html", run={}, failures=failures))
    assert ("No image of this participant" in page.words) == (not failures)


def test_names_are_escaped_and_links_stay_inside(tmp_path, read_page):
    image = an_image(
        source="<script>alert(1)</script>", dseg="javascript:alert(1)", figure="a b&'\".png"
    )
    page = read_page(participant_page("sub-<b>", [image], tmp_path / "a.html", run=RUN))
    assert "<script>" not in page.source
    assert "javascript%3Aalert%281%29" in page.links
    assert page.images[0]["src"] == "a%20b%26%27%22.png"
    assert "sub-<b>" in page.words


def test_image_without_structures(tmp_path, read_page):
    empty = [{"index": 1, "name": "stem", "volume_mm3": 0.0}]
    for volumes in ([], empty):
        image = an_image(volumes=volumes, figure="")
        page = read_page(participant_page("sub-01", [image], tmp_path / "a.html", run=RUN))
        assert "All structures 0.00" in page.words
        assert page.images == []


def group_values(column=100.0):
    values = [
        ImageValue(f"sub-{i:02d}_T1w", label, column * (1 + 0.01 * ((7 * i) % 5)))
        for i in range(6)
        for label in ("stem", "thalamus")
    ]
    values[0] = ImageValue("sub-00_T1w", "stem", 5 * column)
    return values


def test_group_page_shows_values_and_what_is_unusual(tmp_path, read_page):
    dice = [ImageValue("sub-00_T1w", "stem", 0.8), ImageValue("sub-00_T1w", "thalamus", math.nan)]
    page = read_page(
        group_page(
            group_values(1e4),
            tmp_path / "group.html",
            dice=dice,
            failures=[{"file": "sub-09/x.nii", "reason": "broken", "log": ""}],
            models=[MODEL],
            run=RUN,
        )
    )
    assert "Participants 6 Images 6 Failed 1 Unusual volumes 1" in page.words
    assert "Mean Dice, role not known (1 image) 0.800" in page.words
    assert "sub-00_T1w stem 50.0 10.2" in page.words
    assert "n/a" in page.words
    assert "sub-05.html#sub-05_T1w" in page.links
    assert page.source.count("<svg") == 3
    assert "aria-sort" in page.source


def test_group_page_of_nothing(tmp_path, read_page):
    page = read_page(group_page([], tmp_path / "group.html"))
    assert "No image was segmented yet" in page.words


def test_pages_of_a_group_may_lie_elsewhere(tmp_path, read_page):
    pages = {"sub-00": "reports/sub-00.html"}
    page = read_page(group_page(group_values(), tmp_path / "group.html", pages=pages))
    assert "reports/sub-00.html#sub-00_T1w" in page.links
    assert not [link for link in page.links if link.startswith("sub-01.html")]


def a_model(**changes):
    model = {
        **MODEL,
        "mode": "learn2synth",
        "best_dice": 0.75,
        "steps": 100,
        "seconds": 65.0,
        "settings": [{"title": "Training", "items": [{"name": "Loss", "value": "dice"}]}],
        "config": {"learn": {"spacing_mm": 3}},
        "software": {"torch": "2.4"},
        "labels": [
            {"index": 0, "name": "background", "color": "#000000", "dice": None},
            {"index": 1, "name": "stem", "color": "#e69f00", "dice": 0.5},
        ],
        "roles": [
            {"title": "Learned from", "explanation": "They.", "names": ["sub-01", "sub-02"]},
            {"title": "Label maps", "explanation": "Maps.", "names": [f"m{i}" for i in range(30)]},
        ],
        "theta": {
            "start": {"mean/stem": 0.5, "bias": 0.3},
            "average": {"mean/stem": 0.61, "bias": 0.2},
            "final": {"mean/stem": 0.6},
        },
    }
    return {**model, **changes}


def test_model_page_says_what_was_learned(tmp_path, read_page):
    figure = {"href": "figures/a.png", "alt": "curves", "caption": "Curves."}
    page = read_page(
        model_page(
            a_model(),
            tmp_path / "report.html",
            curves=figure,
            theta_figures=[figure],
            samples=[figure],
            files=[{"href": "config.json", "text": "settings"}],
        )
    )
    for text in (
        "Validation Dice 0.750",
        "1 min 5 s",
        "Loss dice",
        "Learned from (2)",
        "Show all 30",
        "bias 0.3 0.2",
        "mean mean intensity of the group",
        "stem 0.5 0.61",
        "1 stem 0.500",
    ):
        assert text in page.words
    assert len(page.images) == 3
    assert "config.json" in page.links


@pytest.mark.parametrize("mode", ["synthseg", "supervised", "something"])
def test_model_page_of_little(tmp_path, read_page, mode):
    model = a_model(mode=mode, best_dice=None, seconds=None, theta={}, roles=[], steps=None)
    page = read_page(model_page(model, tmp_path / "report.html"))
    assert "What the augmentation learned" not in page.words
    assert "Validation Dice not measured" in page.words
    assert "Not recorded." in page.words
