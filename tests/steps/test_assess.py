"""Tables of a model's accuracy against the steps that segment and evaluate, and by hand."""

import csv
import errno

import nibabel as nb
import numpy as np
import pytest
from nibabel.eulerangles import euler2mat

from l2s_pydra.errors import ConfigError, DatasetError, ImageError, LabelError
from l2s_pydra.segmentation.metrics import hausdorff_95
from l2s_pydra.steps.assess import COLUMNS, assess, failures_file
from l2s_pydra.steps.evaluate import evaluate
from l2s_pydra.steps.segment import segment

GREY, WHITE = 3, 41
LIA = np.array([[-1.0, 0, 0, 12], [0, 0, 1, -9], [0, -1, 0, 30], [0, 0, 0, 1]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = euler2mat(0.2, -0.1, 0.3) @ np.diag([0.8, 0.9, 1.4])


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def save(labels, affine, path):
    nb.Nifti1Image(labels.astype(np.int16), affine).to_filename(path)
    return path


@pytest.fixture
def table(tmp_path):
    """Return a label table with other values than those of the model."""
    path = tmp_path / "reference.tsv"
    path.write_text("index\tname\n0\tbackground\n10\tgrey\n20\twhite\n")
    return path


@pytest.fixture
def given(phantom, make_model, files, table, tmp_path):
    """Arguments for one image, whose reference is one voxel off."""

    def given(affine=LIA, shape=(32, 34, 30), model=None, **changes):
        image, labels = phantom(affine, shape)
        moved = np.roll(np.select([labels == GREY, labels == WHITE], [10, 20], 0), 1, axis=1)
        return {
            "images": [image],
            "references": [save(moved, affine, tmp_path / "reference.nii.gz")],
            "names": ["sub-01_T1w"],
            "participants": ["sub-01"],
            "contrasts": ["T1w"],
            "roles": ["test"],
            **files(model or make_model()),
            "reference_table": table,
            "out_file": tmp_path / "out" / "images.tsv",
            "device": "cpu",
            "threads": 1,
            **changes,
        }

    return given


def segmented(arguments, folder):
    """Labels and posteriors that the step ``segment`` writes for the image."""
    tree = segment(
        image=arguments["images"][0],
        **{name: arguments[name] for name in ("weights", "config", "labels")},
        entities={"subject": "01", "suffix": "T1w"},
        source="sub-01_T1w.nii.gz",
        out_dir=folder,
        device="cpu",
        threads=1,
        probseg=True,
    ).tree
    return next(tree.rglob("*_dseg.nii.gz")), next(tree.rglob("*_probseg.nii.gz"))


@pytest.mark.parametrize("affine", [LIA, OBLIQUE], ids=["LIA", "oblique"])
def test_overlap_and_volumes_are_those_of_a_saved_segmentation(given, tmp_path, affine):
    arguments = given(affine)
    assert assess(**arguments) == arguments["out_file"]
    rows = {row["structure"]: row for row in read(arguments["out_file"])}
    assert list(rows) == ["whole", "grey", "white"]
    assert list(rows["grey"]) == list(COLUMNS)
    assert [rows["grey"][key] for key in COLUMNS[:5]] == [
        *("sub-01", "sub-01_T1w", "T1w", "test", str(GREY))
    ]
    dseg, _ = segmented(arguments, tmp_path / "tree")
    evaluate(
        dsegs=[dseg],
        names=["x"],
        references=arguments["references"],
        reference_table=arguments["reference_table"],
        model_labels=arguments["labels"],
        out_file=tmp_path / "dice.tsv",
    )
    for row in read(tmp_path / "dice.tsv"):
        mine = rows[row["label"]]
        for key in ("dice", "volume_mm3", "reference_volume_mm3"):
            assert float(mine[key]) == pytest.approx(float(row[key]), rel=1e-5)
        found, true = float(row["volume_mm3"]), float(row["reference_volume_mm3"])
        assert float(mine["volume_error"]) == pytest.approx(abs(found - true) / true, rel=1e-4)


@pytest.mark.parametrize("affine", [LIA, OBLIQUE], ids=["LIA", "oblique"])
def test_distances_are_those_of_the_masks(given, tmp_path, affine):
    arguments = given(affine)
    assess(**arguments)
    found = np.asanyarray(nb.load(segmented(arguments, tmp_path / "tree")[0]).dataobj)
    truth = np.asanyarray(nb.load(arguments["references"][0]).dataobj)
    masks = {
        "grey": (found == GREY, truth == 10),
        "white": (found == WHITE, truth == 20),
        "whole": (found > 0, truth > 0),
    }
    for row in read(arguments["out_file"]):
        expected = hausdorff_95(*masks[row["structure"]], affine)
        assert float(row["hd95_mm"]) == pytest.approx(expected, rel=1e-6)
        assert expected > 0


def expected_error(confidence, correct, bins=15):
    """Calibration error, bin after bin."""
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in zip(edges, [*edges[1:-1], 2], strict=False):
        mine = (confidence >= low) & (confidence < high)
        if mine.any():
            total += mine.mean() * abs(correct[mine].mean() - confidence[mine].mean())
    return total


def test_calibration_is_that_of_the_saved_posteriors(given, make_model, tmp_path):
    """A model that is not sure of itself, as it weighs the image little."""
    arguments = given(model=make_model(weight=0.75))
    assess(**arguments)
    dseg, probseg = segmented(arguments, tmp_path / "tree")
    posterior = np.moveaxis(nb.load(probseg).get_fdata(), -1, 0)
    found = np.asanyarray(nb.load(dseg).dataobj)
    truth = np.asanyarray(nb.load(arguments["references"][0]).dataobj)
    rows = {row["structure"]: float(row["ece"]) for row in read(arguments["out_file"])}
    for channel, name, value in ((1, "grey", 10), (2, "white", 20)):
        matters = (posterior[channel] > 0.01) | (truth == value)
        expected = expected_error(posterior[channel][matters], (truth == value)[matters])
        # Saved posteriors are rounded, which moves a few voxels to the next bin.
        assert rows[name] == pytest.approx(expected, abs=2e-3)
    somewhere = (found > 0) | (truth > 0)
    right = np.select([found == GREY, found == WHITE], [10, 20], 0) == truth
    expected = expected_error(posterior.max(0)[somewhere], right[somewhere])
    assert rows["whole"] == pytest.approx(expected, abs=2e-3)
    assert 0.01 < expected < 0.5


def test_a_structure_that_one_lacks(given, tmp_path):
    arguments = given()
    truth = np.asanyarray(nb.load(arguments["references"][0]).dataobj)
    arguments["references"] = [save(np.where(truth == 10, 0, truth), LIA, tmp_path / "half.nii.gz")]
    assess(**arguments)
    rows = {row["structure"]: row for row in read(arguments["out_file"])}
    grey = rows["grey"]
    assert (float(grey["dice"]), grey["hd95_mm"], grey["volume_error"]) == (0, "n/a", "n/a")
    assert float(grey["ece"]) > 0.9
    assert rows["white"]["hd95_mm"] != "n/a"


def test_a_structure_that_both_lack(given, make_model, tmp_path):
    arguments = given(model=make_model(weight=0.0))
    truth = np.asanyarray(nb.load(arguments["references"][0]).dataobj)
    arguments["references"] = [save(np.where(truth == 10, 0, truth), LIA, tmp_path / "half.nii.gz")]
    assess(**arguments)
    rows = {row["structure"]: row for row in read(arguments["out_file"])}
    assert rows["grey"]["dice"] == rows["grey"]["hd95_mm"] == "n/a"
    assert (float(rows["white"]["dice"]), float(rows["white"]["volume_error"])) == (0, 1)


def test_a_mapping_brings_reference_labels_to_those_of_the_model(given, tmp_path):
    arguments = given()
    (tmp_path / "reference.tsv").write_text("index\tname\n10\ta\n20\tb\n")
    with pytest.raises(LabelError, match=r"reference\.tsv.*mapping"):
        assess(**arguments)
    (tmp_path / "map.tsv").write_text(f"index\tmapping\n10\t{WHITE}\n20\t{WHITE}\n")
    assess(**arguments, label_mapping=tmp_path / "map.tsv")
    rows = {row["structure"]: row for row in read(arguments["out_file"])}
    assert rows["white"]["reference_volume_mm3"] == rows["whole"]["reference_volume_mm3"]
    # No label is grey matter, so that nothing is known of it.
    grey = rows["grey"]
    assert float(grey.pop("volume_mm3")) > 0
    assert {grey[key] for key in COLUMNS[6:] if key in grey} == {"n/a"}


def test_what_the_references_do_not_delineate_is_not_judged(given, table, tmp_path, caplog):
    arguments = given()
    truth = np.asanyarray(nb.load(arguments["references"][0]).dataobj)
    arguments["references"] = [save(np.where(truth == 10, 0, truth), LIA, tmp_path / "w.nii.gz")]
    table.write_text("index\tname\n20\twhite\n")
    assess(**arguments)
    assert "no label of grey" in caplog.text
    rows = {row["structure"]: row for row in read(arguments["out_file"])}
    assert rows["grey"]["dice"] == rows["grey"]["reference_volume_mm3"] == "n/a"
    for key in ("dice", "hd95_mm", "volume_mm3", "reference_volume_mm3", "volume_error"):
        assert rows["whole"][key] == rows["white"][key] != "n/a"
    # Grey matter, which would be wrong all over, is none of its voxels.
    assert 0 <= float(rows["whole"]["ece"]) < 0.3


def test_one_bad_image_stops_no_other(given, tmp_path):
    arguments = given()
    (tmp_path / "broken.nii.gz").write_bytes(b"")
    elsewhere = save(np.arange(24).reshape(2, 3, 4) % 2 * 10, LIA, tmp_path / "elsewhere.nii.gz")
    arguments["images"] = [tmp_path / "broken.nii.gz", *arguments["images"] * 2]
    arguments["references"] = [*arguments["references"] * 2, elsewhere]
    for key in ("contrasts", "roles"):
        arguments[key] *= 3
    arguments["participants"] = ["sub-02", "sub-01", "sub-03"]
    arguments["names"] = ["bad", "good", "shifted"]
    assess(**arguments)
    assert {row["image"] for row in read(arguments["out_file"])} == {"good"}
    first, second = read(failures_file(arguments["out_file"]))
    assert (first["participant_id"], first["image"]) == ("sub-02", "bad")
    assert "broken.nii.gz" in first["reason"]
    assert "elsewhere.nii.gz" in second["reason"]
    arguments["references"][1] = elsewhere
    with pytest.raises(DatasetError, match=r"no image can be compared.*broken\.nii\.gz"):
        assess(**arguments)


def test_what_may_pass_is_no_result(given, monkeypatch):
    """A disk that does not answer says nothing of the image."""

    def broken(*args, **kwargs):
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError as error:
            raise ImageError("im.nii: cannot be read (Input/output error)") from error

    arguments = given()
    monkeypatch.setattr("l2s_pydra.steps.assess.load_labels", broken)
    with pytest.raises(DatasetError, match=r"im\.nii.*run again"):
        assess(**arguments)
    assert not arguments["out_file"].exists()
    arguments["references"][0].unlink()
    monkeypatch.undo()
    with pytest.raises(DatasetError, match=r"reference\.nii.*run again"):
        assess(**arguments)


def test_slices_and_models_of_slices(given, make_model, tmp_path):
    affine = np.diag([1.0, 1, 5, 1])
    arguments = given(affine, (32, 34, 1), model=make_model(ndim=2))
    assess(**arguments)
    rows = {row["structure"]: row for row in read(arguments["out_file"])}
    # Moved by a voxel of 1 mm within the slice, whose other slices would be 5 mm away
    assert float(rows["white"]["hd95_mm"]) == pytest.approx(1, abs=0.5)
    assert 0.7 < float(rows["white"]["dice"]) < 1


@pytest.mark.parametrize("name", ["references", "names", "participants", "contrasts", "roles"])
def test_one_of_each_for_every_image(given, name):
    with pytest.raises(ConfigError, match=name):
        assess(**given(**{name: []}))
