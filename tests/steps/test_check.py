"""Everything that is wrong with the files of a training is said at once."""

import numpy as np
import pytest

from l2s_pydra.errors import DatasetError, GridMismatchError, ImageError, LabelError
from l2s_pydra.steps.prepare import prepare
from l2s_pydra.steps.schemes import read_schemes

LEFT, RIGHT, STEM = 10, 49, 16
TABLE = ("index\tname", f"{LEFT}\tLeft-Lobe", f"{RIGHT}\tRight-Lobe", f"{STEM}\tStem")


def message_of(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_an_unknown_label_is_named(lobes):
    given = lobes.inputs()
    labels = lobes.head()
    labels[10, 10, 10] = 77
    given["labels"][1] = lobes.write("odd.nii.gz", labels)
    with pytest.raises(LabelError, match=r"label\(s\) 77 not in the label table") as error:
        prepare(**given)
    assert message_of(error).startswith(f"{given['labels'][1]}: ")


def test_an_unknown_label_of_a_map_is_named(lobes):
    labels = lobes.head()
    labels[10, 10, 10] = -3
    path = lobes.write("oddmap.nii.gz", labels)
    with pytest.raises(LabelError, match=r"label\(s\) -3 not in the label table") as error:
        prepare(**lobes.inputs(label_maps=[path]))
    assert message_of(error).startswith(f"{path}: ")


def test_another_grid_is_named(lobes):
    given = lobes.inputs()
    moved = lobes.affine()
    moved[0, 3] += 0.5
    given["labels"][0] = lobes.write("moved.nii.gz", lobes.head(), moved)
    with pytest.raises(GridMismatchError) as error:
        prepare(**given)
    message = message_of(error)
    assert str(given["labels"][0]) in message
    assert str(given["images"][0]) in message


def test_labels_without_structures_are_named(lobes):
    given = lobes.inputs()
    labels = np.where(lobes.head() > 0, 99, 0).astype(np.int16)
    given["labels"][2] = lobes.write("none.nii.gz", labels)
    rows = (f"{LEFT}\ta\t1", f"{RIGHT}\tb\t1", f"{STEM}\tc\t2", "99\tcyst\t0")
    given["schemes"] = read_schemes(lobes.table("index\tname\tmapping", *rows), None, None)
    with pytest.raises(DatasetError, match="none of the structures") as error:
        prepare(**given)
    assert message_of(error).startswith(f"{given['labels'][2]}: ")


def test_all_bad_files_are_listed(lobes, tmp_path):
    given = lobes.inputs()
    cut = given["images"][0]
    cut.write_bytes(cut.read_bytes()[:300])
    given["labels"][1] = tmp_path / "missing.nii.gz"
    odd = np.full(lobes.shape, 5, np.int16)  # a value that the table does not list
    odd[0] = 0
    given["label_maps"].append(lobes.write("odd.nii.gz", odd))
    with pytest.raises(DatasetError, match=r"^3 files cannot be used: ") as error:
        prepare(**given)
    message = message_of(error)
    for path in (cut, given["labels"][1], given["label_maps"][1]):
        assert str(path) in message
    # One bad file keeps the kind of its error.
    given = lobes.inputs()
    given["images"][0].write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        prepare(**given)
