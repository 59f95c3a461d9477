"""The table of predicted Dice: errors apart for the learned contrast and the others."""

import pytest


@pytest.fixture
def quality(load):
    return load("quality")


def test_errors_are_of_each_contrast_and_of_all_that_were_not_learned(quality):
    found = {
        "FLAIR": [(0.4, 0.9, 0.3), (0.6, 0.9, 0.7)],
        "T1w": [(0.8, 0.9, 0.8), (0.7, 0.8, 0.7)],
        "T2w": [(0.5, 0.8, 0.2), (0.3, 0.7, 0.4)],
    }
    rows = quality.rows(found)
    values = {(r["case"], r["metric"]): r["value"] for r in rows}
    assert [r["case"] for r in rows if r["metric"] == "error"][:2] == [
        "self-Dice T1w",
        "predicted T1w",
    ]
    assert values["predicted T1w", "error"] == pytest.approx(0, abs=1e-12)
    assert values["self-Dice T1w", "error"] == pytest.approx(0.1)
    assert values["predicted T1w", "correlation"] == pytest.approx(1)
    assert values["predicted all others", "error"] == pytest.approx(
        ((0.1**2 + 0.1**2 + 0.3**2 + 0.1**2) / 4) ** 0.5
    )
    assert values["predicted all others", "bias"] == pytest.approx((0.1 - 0.1 + 0.3 - 0.1) / 4)
    # Below 0.5 are three, of which two were predicted to be; and none else was.
    assert values["remarked all others", "found"] == pytest.approx(2 / 3)
    assert values["remarked all others", "rightly"] == pytest.approx(1)
    assert ("remarked T1w", "found") not in values
    # What does not vary has no correlation.
    assert ("self-Dice FLAIR", "correlation") not in values


def test_images_are_those_of_the_participants(quality, tmp_path):
    for who in ("01", "02"):
        folder = tmp_path / f"sub-{who}" / "anat"
        folder.mkdir(parents=True)
        for suffix in ("T1w", "T2w"):
            (folder / f"sub-{who}_{suffix}.nii.gz").touch()
            (folder / f"sub-{who}_{suffix}.json").touch()
    found = list(quality.images_of(tmp_path, ["02"]))
    assert [(who, path.name) for who, path in found] == [
        ("02", "sub-02_T1w.nii.gz"),
        ("02", "sub-02_T2w.nii.gz"),
    ]
