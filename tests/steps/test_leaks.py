"""What a model is judged by is not trained on, under whatever name."""

import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import DatasetError
from l2s_pydra.steps.check import check_inputs
from l2s_pydra.steps.prepare import prepare
from l2s_pydra.steps.schemes import read_schemes


def wrong(given):
    """Errors of check_inputs."""
    names = ("images", "labels", "roles", "label_maps", "schemes")
    problems = check_inputs(**{name: given[name] for name in names})
    return [problem for problem in problems if problem.is_error]


def with_test(lobes):
    """Participants in all three roles."""
    given = lobes.inputs()
    given["images"].append(lobes.write("im3.nii.gz", lobes.picture(lobes.head(3), seed=3)))
    given["labels"].append(lobes.write("lab3.nii.gz", lobes.head(3)))
    return given | {"roles": [*given["roles"], "test"], "names": [*given["names"], "sub-4"]}


def scaled(image, folder):
    """The same values, stored as whole numbers with a slope, not compressed."""
    data = np.rint(image.get_fdata()).astype(np.float32)
    nb.save(nb.Nifti1Image(data, image.affine), folder / "a.nii.gz")
    copy = nb.Nifti1Image((data * 2).astype(np.int16), image.affine)
    copy.header.set_slope_inter(0.5, 0)
    nb.save(copy, folder / "b.nii")
    with (folder / "b.nii").open("r+b") as file:
        file.seek(112)
        file.write(np.array([0.5, 0], "<f4").tobytes())
        file.seek(352)
        file.write((data * 2).astype("<i2").tobytes(order="F"))
    return folder / "a.nii.gz", folder / "b.nii"


def renamed(image, folder):
    nb.save(image, folder / "a.nii.gz")
    copy = nb.Nifti1Image(np.asarray(image.dataobj), image.affine)
    copy.header["descrip"] = b"another"
    nb.save(copy, folder / "b.nii")
    return folder / "a.nii.gz", folder / "b.nii"


def reoriented(image, folder):
    nb.save(image, folder / "a.nii.gz")
    start, end = nb.io_orientation(image.affine), nb.orientations.axcodes2ornt("SPL")
    nb.save(image.as_reoriented(nb.orientations.ornt_transform(start, end)), folder / "b.nii.gz")
    return folder / "a.nii.gz", folder / "b.nii.gz"


@pytest.mark.parametrize("copy", [scaled, renamed, reoriented])
@pytest.mark.parametrize(("one", "other"), [(0, 2), (1, 3), (2, 3)])
def test_copies_of_images_in_two_roles(lobes, copy, one, other):
    given = with_test(lobes)
    paths = copy(nb.load(given["images"][one]), lobes.folder)
    for place, path in zip((one, other), paths, strict=True):
        given["images"][place] = path
        # Labels on the grid of the copy, other ones than those of the original.
        image = nb.load(path)
        turn = nb.orientations.ornt_transform(
            nb.io_orientation(lobes.affine()), nb.io_orientation(image.affine)
        )
        labels = nb.Nifti1Image(lobes.head(7 if place == other else 5), lobes.affine())
        given["labels"][place] = lobes.folder / f"labels{place}.nii.gz"
        nb.save(labels.as_reoriented(turn), given["labels"][place])
    (problem,) = wrong(given)
    assert problem.file == paths[1]
    assert f"holds the same voxels as {paths[0]}" in problem.what
    assert "remove one of them" in problem.remedy
    with pytest.raises(DatasetError, match="holds the same voxels"):
        prepare(**given)


def test_copies_within_a_role_are_allowed(lobes):
    given = lobes.inputs()
    given["images"][1] = lobes.write("copy.nii.gz", nb.load(given["images"][0]).get_fdata())
    assert wrong(given) == []


@pytest.mark.parametrize(("one", "other"), [(0, 2), (0, 3), (2, 3)])
def test_the_same_labels_in_two_roles(lobes, one, other):
    given = with_test(lobes)
    labels = np.asarray(nb.load(given["labels"][one]).dataobj)
    given["labels"][other] = lobes.write("again.nii", labels.astype(np.uint8))
    (problem,) = wrong(given)
    assert problem.file == given["labels"][other]
    assert f"holds the same voxels as {given['labels'][one]}" in problem.what


@pytest.mark.parametrize(("whose", "leak"), [(0, False), (2, True), (3, True)])
def test_references_among_the_label_maps(lobes, whose, leak):
    """The label maps have another table, which says the same and more."""
    given = with_test(lobes)
    lines = ("index\tname", "1\tLeft-Lobe", "2\tRight-Lobe", "3\tStem", "4\tSkull")
    maps = lobes.table(*lines, name="maps.tsv")
    mapping = lobes.table("index\tmapping", "1\t10", "2\t49", "3\t16", "4\t0", name="mapping.tsv")
    given["schemes"] = read_schemes(lobes.table(*lobes.lines), maps, mapping)
    labels = np.asarray(nb.load(given["labels"][whose]).dataobj)
    own = np.select(
        [labels == lobes.left, labels == lobes.right, labels == lobes.stem], [1, 2, 3], 0
    )
    own[0, 0, :5] = 4
    given["label_maps"] = [lobes.write("map.nii.gz", own.astype(np.int16))]
    problems = wrong(given)
    assert len(problems) == leak
    for problem in problems:
        assert problem.file == given["label_maps"][0]
        assert f"holds the same labels as {given['labels'][whose]}" in problem.what
        assert problem.remedy == "leave it out of the label maps for synthesis"


def test_images_to_test_on_are_not_trained_on(lobes):
    given = with_test(lobes)
    data, facts = prepare(**given)
    without = {name: given[name][:3] for name in ("images", "labels", "names", "roles")}
    same, other = prepare(**given | without)
    assert facts == other
    assert [scan.name for scan in data.learn] == ["sub-1", "sub-2"]
    assert [scan.name for scan in data.validate] == ["sub-3"]
    assert len(data.synthesizer.label_maps) == len(same.synthesizer.label_maps) == 3


def test_a_broken_image_to_test_on_stops_no_training(lobes, caplog):
    given = with_test(lobes)
    given["images"][3].write_bytes(b"")
    assert wrong(given) == []
    data, _ = prepare(**given)
    assert len(data.learn) == 2
    assert f"{given['images'][3]}: the file is empty" in caplog.text
