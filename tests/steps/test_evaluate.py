"""Tables against numbers counted by hand."""

import csv

import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import ConfigError, DatasetError, GridMismatchError, ImageError, LabelError
from l2s_pydra.steps.evaluate import collect_volumes, evaluate

AFFINE = np.diag([-2.0, 1, 1.5, 1])
MODEL = "index\tname\n0\tbackground\n1\tgrey\n2\twhite\n9\tstem\n"
REFERENCE = "index\tname\n0\tbackground\n30\tgrey\n41\twhite\n42\tstem\n"


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def case(tmp_path):
    """Return the arguments of an evaluation of two images with known overlap."""

    def save(name, labels, affine=AFFINE):
        nb.Nifti1Image(labels.astype(np.int16), affine).to_filename(tmp_path / name)
        return tmp_path / name

    truth = np.zeros((4, 5, 6), dtype=int)
    truth[1:3, 1:3, 1:3] = 30
    truth[3] = 41
    found = np.zeros((4, 5, 6), dtype=int)
    found[1:3, 1:3, 1:2] = 1
    found[0, 0, 0] = 1
    found[3] = 2
    (tmp_path / "model.tsv").write_text(MODEL)
    (tmp_path / "reference.tsv").write_text(REFERENCE)
    arguments = {
        "dsegs": [save("one.nii.gz", found), save("two.nii.gz", found * 0)],
        "names": ["sub-01_T1w", "sub-02_T1w"],
        "references": [save("truth.nii.gz", truth), save("truth2.nii.gz", truth)],
        "reference_table": tmp_path / "reference.tsv",
        "model_labels": tmp_path / "model.tsv",
        "label_mapping": None,
        "out_file": tmp_path / "out" / "dice.tsv",
    }
    return arguments, save


def test_overlap_and_volumes(case):
    arguments, _ = case
    assert evaluate(**arguments) == arguments["out_file"]
    rows = read(arguments["out_file"])
    assert list(rows[0]) == [
        "name",
        "index",
        "label",
        "dice",
        "volume_mm3",
        "reference_volume_mm3",
    ]
    first = {row["label"]: row for row in rows if row["name"] == "sub-01_T1w"}
    # 8 reference voxels of 3 mm3, 4 of them found and one elsewhere
    assert float(first["grey"]["dice"]) == pytest.approx(2 * 4 / (5 + 8), abs=1e-6)
    assert float(first["grey"]["volume_mm3"]) == 5 * 3
    assert float(first["grey"]["reference_volume_mm3"]) == 8 * 3
    assert first["grey"]["index"] == "1"
    assert float(first["white"]["dice"]) == 1
    assert first["stem"]["dice"] == "n/a"
    assert float(first["stem"]["volume_mm3"]) == 0
    second = [row["dice"] for row in rows if row["name"] == "sub-02_T1w"]
    assert [float(second[0]), float(second[1]), second[2]] == [0, 0, "n/a"]
    assert len(rows) == 6


def test_mapping_table_merges_reference_labels(case, tmp_path):
    arguments, _ = case
    (tmp_path / "reference.tsv").write_text("index\tname\n30\ta\n41\tb\n")
    (tmp_path / "map.tsv").write_text("index\tmapping\n30\t2\n41\t2\n")
    evaluate(**arguments | {"label_mapping": tmp_path / "map.tsv"})
    white = read(arguments["out_file"])[1]
    # 30 of white and 8 of grey are white now; 30 are found
    assert float(white["dice"]) == pytest.approx(2 * 30 / (30 + 38), abs=1e-6)


def test_references_on_another_grid(case):
    arguments, save = case
    moved = AFFINE.copy()
    moved[0, 3] = 1
    arguments["references"][0] = save(
        "moved.nii.gz", np.eye(4, 5)[..., None] * [0, 0, 30, 0, 0, 0], moved
    )
    with pytest.raises(GridMismatchError, match=r"moved\.nii\.gz.*one\.nii\.gz.*resample"):
        evaluate(**arguments)


def test_label_that_no_table_lists(case):
    arguments, save = case
    odd = np.zeros((4, 5, 6))
    odd[0, 0, :2] = 30, 77
    arguments["references"][1] = save("odd.nii.gz", odd)
    with pytest.raises(LabelError, match=r"odd\.nii\.gz.*77"):
        evaluate(**arguments)


def test_label_without_counterpart(case, tmp_path):
    arguments, _ = case
    (tmp_path / "reference.tsv").write_text("index\tname\n30\tgrey\n41\tsomething\n")
    with pytest.raises(LabelError, match=r"reference\.tsv.*something.*mapping"):
        evaluate(**arguments)


def test_empty_reference(case):
    arguments, save = case
    arguments["references"][0] = save("empty.nii.gz", np.zeros((4, 5, 6)))
    with pytest.raises(ImageError, match=r"empty\.nii\.gz"):
        evaluate(**arguments)


def test_nothing_to_compare(case):
    arguments, _ = case
    with pytest.raises(DatasetError, match="no segmentation is given"):
        evaluate(**arguments | {"dsegs": [], "names": [], "references": []})


@pytest.mark.parametrize("name", ["names", "references"])
def test_there_is_one_for_each_segmentation(case, name):
    arguments, _ = case
    with pytest.raises(ConfigError, match=rf"{name}: 1 are given for 2 image\(s\)"):
        evaluate(**arguments | {name: arguments[name][:1]})


def test_collects_volumes(tmp_path):
    for name, volume in (("a", "12.5"), ("b", "0.0")):
        (tmp_path / f"{name}.tsv").write_text(f"index\tname\tvolume-mm3\n3\tgrey\t{volume}\n")
    out = collect_volumes(
        [tmp_path / "a.tsv", tmp_path / "b.tsv"], ["sub-01_T1w", "sub-02_T1w"], tmp_path / "all.tsv"
    )
    assert out.read_text() == (
        "name\tindex\tlabel\tvolume_mm3\nsub-01_T1w\t3\tgrey\t12.5\nsub-02_T1w\t3\tgrey\t0.0\n"
    )


def test_tables_of_volumes_that_are_none(tmp_path):
    (tmp_path / "a.tsv").write_text("index\tname\tvolume-mm3\n3\tgrey\tmuch\n")
    (tmp_path / "b.tsv").write_text("index\tname\n3\tgrey\n")
    for name, words in (("a", "no number"), ("b", "volume-mm3"), ("c", "cannot read")):
        with pytest.raises(DatasetError, match=rf"{name}\.tsv.*{words}"):
            collect_volumes([tmp_path / f"{name}.tsv"], ["x"], tmp_path / "all.tsv")
