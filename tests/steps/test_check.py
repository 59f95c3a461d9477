"""Everything that is wrong with the files of a training is said at once."""

import attrs
import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import DatasetError, GridMismatchError, ImageError, LabelError
from l2s_pydra.images.volume import load_labels
from l2s_pydra.steps.alignment import Fit
from l2s_pydra.steps.check import check_inputs, write_problems
from l2s_pydra.steps.prepare import prepare
from l2s_pydra.steps.remarks import misplaced
from l2s_pydra.steps.schemes import read_schemes


def test_an_unknown_label_is_named(lobes, message_of):
    given = lobes.inputs()
    labels = lobes.head()
    labels[10, 10, 10] = 77
    given["labels"][1] = lobes.write("odd.nii.gz", labels)
    with pytest.raises(LabelError, match=r"label\(s\) 77 not in the label table") as error:
        prepare(**given)
    assert message_of(error).startswith(f"{given['labels'][1]}: ")


def test_an_unknown_label_of_a_map_is_named(lobes, message_of):
    labels = lobes.head()
    labels[10, 10, 10] = -3
    path = lobes.write("oddmap.nii.gz", labels)
    with pytest.raises(LabelError, match=r"label\(s\) -3 not in the label table") as error:
        prepare(**lobes.inputs(label_maps=[path]))
    assert message_of(error).startswith(f"{path}: ")


def test_another_grid_is_named(lobes, message_of):
    given = lobes.inputs()
    moved = lobes.affine()
    moved[0, 3] += 0.5
    given["labels"][0] = lobes.write("moved.nii.gz", lobes.head(), moved)
    with pytest.raises(GridMismatchError) as error:
        prepare(**given)
    message = message_of(error)
    assert str(given["labels"][0]) in message
    assert str(given["images"][0]) in message


def test_labels_without_structures_are_named(lobes, message_of):
    given = lobes.inputs()
    labels = np.where(lobes.head() > 0, 99, 0).astype(np.int16)
    given["labels"][2] = lobes.write("none.nii.gz", labels)
    rows = (f"{lobes.left}\ta\t1", f"{lobes.right}\tb\t1", f"{lobes.stem}\tc\t2", "99\tcyst\t0")
    given["schemes"] = read_schemes(lobes.table("index\tname\tmapping", *rows), None, None)
    with pytest.raises(DatasetError, match="none of the structures") as error:
        prepare(**given)
    assert message_of(error).startswith(f"{given['labels'][2]}: ")


def test_all_bad_files_are_listed(lobes, tmp_path, message_of):
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


# ---------------------------------------------------------------- odd, not wrong


def odd(given):
    """Warnings of check_inputs; there must be no error."""
    names = ("images", "labels", "roles", "label_maps", "schemes")
    problems = check_inputs(**{name: given[name] for name in names})
    assert not any(problem.is_error for problem in problems)
    return problems


def rewrite(path, change, data=None):
    """Change header and, if given, voxels of a file."""
    image = nb.load(path)
    values = np.asarray(image.dataobj) if data is None else data
    other = nb.Nifti1Image(values, image.affine, image.header)
    change(other)
    nb.save(other, path)


def test_nothing_to_say(lobes):
    for stripped in (False, True):
        assert odd(lobes.inputs(stripped=stripped)) == []


def test_voxels_that_are_not_finite(lobes):
    given = lobes.inputs()
    data = nb.load(given["images"][1]).get_fdata(dtype=np.float32)
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    lobes.write("im1.nii.gz", data)
    (problem,) = odd(given)
    assert (problem.file, problem.severity) == (given["images"][1], "warning")
    assert problem.what == "3 voxels are not finite numbers and were set to 0"
    assert problem.remedy.startswith("export the image again")


def without_orientation(path):
    """Write a file again without qform and sform."""
    image = nb.load(path)
    other = nb.Nifti1Image(np.asarray(image.dataobj), None)
    other.header.set_zooms(image.header.get_zooms())
    nb.save(other, path)


def in_metres(image):
    image.header.set_xyzt_units("meter")


def two_orientations(image):
    image.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), code=1)
    image.set_sform(image.affine, code=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_metres, "gives lengths in metres; they were taken as mm"),
        (two_orientations, "mirrored to the qform: check left and right"),
    ],
)
@pytest.mark.parametrize("which", ["images", "labels", "label_maps"])
def test_headers_that_contradict_themselves(lobes, change, said, which):
    given = lobes.inputs()
    rewrite(given[which][0], change)
    (problem,) = odd(given)
    assert problem.file == given[which][0]
    assert said in problem.what


def test_a_header_with_two_voxel_sizes(lobes):
    given = lobes.inputs()
    given["images"][0] = path = lobes.write("two.nii", lobes.picture(lobes.head()))
    with path.open("r+b") as file:
        file.seek(80)  # pixdim[1:4], NIfTI-1
        file.write(np.array([1.5, 1.5, 1.5], "<f4").tobytes())
        file.seek(252)  # qform_code: without it, pixdim decides nothing
        file.write(np.array([0], "<i2").tobytes())
    (problem,) = odd(given)
    assert problem.file == path
    assert "gives voxels of 1.5x1.5x1.5 mm, its affine of 2x2x2 mm" in problem.what


def test_no_orientation(lobes):
    """Neither the image nor its labels say where left is."""
    given = lobes.inputs()
    for name in ("images", "labels"):
        without_orientation(given[name][0])
    problems = odd(given)
    assert [problem.file for problem in problems] == [given["images"][0], given["labels"][0]]
    for problem in problems:
        assert "neither qform nor sform is set" in problem.what
        assert "left and right may be exchanged" in problem.remedy


@pytest.mark.parametrize(("size", "said"), [(15.0, "15 x 15 x 15 mm"), (1.0, "30 x 28 x 26 mm")])
def test_odd_sizes(lobes, size, said):
    given = lobes.inputs()
    for name, data in (("images", lobes.picture(lobes.head())), ("labels", lobes.head())):
        given[name][0] = lobes.write(f"{name}.nii.gz", data, np.diag([size, size, size, 1]))
    problems = odd(given)
    assert [problem.file for problem in problems] == [given["images"][0], given["labels"][0]]
    assert all(said in problem.what for problem in problems)


@pytest.mark.parametrize(
    ("shift", "said"),
    [((0, 4, 0), "moved by -8 mm anterior"), ((-3, 0, 3), "moved by +6 mm right, -6 mm superior")],
)
@pytest.mark.parametrize("codes", ["RAS", "LPI"])
def test_labels_that_were_moved(lobes, shift, said, codes):
    given = lobes.inputs(stripped=True, codes=codes)
    moved = np.roll(lobes.head(), shift, (0, 1, 2))
    given["labels"][0] = lobes.write("moved.nii.gz", moved, codes=codes)
    (problem,) = odd(given)
    assert problem.file == given["labels"][0]
    assert said in problem.what
    assert "shifted, flipped or of another image" in problem.remedy


@pytest.mark.parametrize(("codes", "mirror"), [("RAS", 2), ("SPR", 0), ("AIL", 1)])
def test_mirrored_labels_in_words(lobes, codes, mirror):
    labels = load_labels(lobes.write("labels.nii.gz", lobes.head(), codes=codes))
    fit = Fit(
        dark=0.1, dark_around=0.9, empty=0.0, whole=(0.4, 0.9), inside=(0.1, 0.8), telling=True,
        move_voxels=(0, 0, 0), mirror=mirror,
    )  # fmt: skip
    ((role, what, _),) = misplaced(fit, labels)
    assert role == "labels"
    assert what.endswith("when they are mirrored (top and bottom exchanged)")
    assert misplaced(attrs.evolve(fit, whole=(0.9, 0.9), inside=(0.8, 0.8)), labels) == []


# ---------------------------------------------------------------- wrong


def wrong(given):
    """Errors of check_inputs."""
    names = ("images", "labels", "roles", "label_maps", "schemes")
    problems = check_inputs(**{name: given[name] for name in names})
    return [problem for problem in problems if problem.is_error]


def test_labels_on_nothing(lobes):
    given = lobes.inputs(stripped=True)
    image, labels = np.zeros(lobes.shape, np.float32), np.zeros(lobes.shape, np.int16)
    image[2:10, 2:10, 2:10] = 100
    labels[20:28, 18:26, 16:24] = lobes.left
    given["images"][0] = lobes.write("image.nii.gz", image)
    given["labels"][0] = lobes.write("labels.nii.gz", labels)
    (problem,) = wrong(given)
    assert problem.file == given["labels"][0]
    assert f"100 % of the labelled voxels lie where {given['images'][0]} is empty" in problem.what


@pytest.mark.parametrize("known", [True, False])
def test_orientations_that_disagree(lobes, known):
    given = lobes.inputs()
    data = np.asarray(nb.load(given["labels"][0]).dataobj)
    given["labels"][0] = path = lobes.folder / "turned.nii.gz"
    nb.save(nb.Nifti1Image(data, lobes.affine() @ np.diag([-1, 1, 1, 1])), path)
    said = "its axes are LAS, those of the image RAS"
    if not known:
        without_orientation(path)
        said = "it has no orientation of its own (taken as RAS, the image is RAS)"
    (problem,) = wrong(given)
    assert said in problem.what
    assert str(given["images"][0]) in problem.what
    with pytest.raises(GridMismatchError, match="voxels lie up to"):
        prepare(**given)


def test_every_file_of_a_pair_is_looked_at(lobes):
    given = lobes.inputs()
    given["images"][0].write_bytes(b"")
    given["images"][1] = lobes.write("flat.nii.gz", np.ones(lobes.shape, np.float32))
    for name in ("labels", "label_maps"):
        odd_labels = lobes.head()
        odd_labels[0] = 77
        given[name][0] = lobes.write(f"odd-{name}.nii.gz", odd_labels)
    problems = wrong(given)
    files = [given["images"][0], given["labels"][0], given["images"][1], given["label_maps"][0]]
    assert [problem.file for problem in problems] == files
    assert all(problem.what and problem.remedy for problem in problems)
    with pytest.raises(DatasetError, match=r"^4 files cannot be used: ") as error:
        prepare(**given)
    assert all(str(problem) in str(error.value) for problem in problems)
    path = write_problems(problems, lobes.folder / "new" / "problems.tsv")
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    assert header == ["severity", "file", "problem", "remedy"]
    assert [row[:2] for row in rows] == [["error", str(file)] for file in files]
    assert all(len(row) == 4 for row in rows)
