"""From Python: what goes in may be a path, an image or an array; what comes out is the same."""

import nibabel as nb
import numpy as np
import pytest

import l2s_pydra
from l2s_pydra.errors import ConfigError, ImageError, ModelError
from l2s_pydra.steps import api

AFFINE = np.array([[0, 0, 1.5, -20], [-1, 0, 0, 15], [0, 1.2, 0, -12], [0, 0, 0, 1]])


@pytest.fixture
def scan(phantom):
    return phantom(AFFINE)


@pytest.fixture
def loaded(model):
    return l2s_pydra.load_model(model)


def test_a_path_an_image_and_an_array_give_the_same(loaded, scan):
    path, labels = scan
    image = nb.load(path)
    found = loaded.segment(path, threads=1)
    again = loaded.segment(image, threads=1)
    third = loaded.segment(np.asarray(image.dataobj), affine=AFFINE, threads=1)
    for one in (found, again, third):
        np.testing.assert_array_equal(np.asarray(one.labels.dataobj), found.labels.dataobj)
        np.testing.assert_allclose(one.labels.affine, AFFINE, atol=1e-5)
        assert one.volumes_mm3 == pytest.approx(found.volumes_mm3)
    assert float((np.asarray(found.labels.dataobj) == labels).mean()) > 0.95
    assert found.labels.get_data_dtype() == np.uint8
    assert found.labels.header["qform_code"] == image.header["qform_code"]
    assert found.names == {0: "background", 3: "grey", 41: "white"}


def test_volumes_are_sums_of_posteriors(loaded, scan):
    path, labels = scan
    found = loaded.segment(path, posteriors=True)
    voxel = 1.5 * 1.2
    assert set(found.volumes_mm3) == {"grey", "white"}
    assert found.volumes_mm3["white"] == pytest.approx(voxel * (labels == 41).sum(), rel=0.15)
    posteriors = np.asarray(found.posteriors.dataobj)
    assert posteriors.shape == (*labels.shape, 3)
    np.testing.assert_allclose(posteriors.sum(-1), 1, atol=1e-3)
    best = np.array(list(found.names))[posteriors.argmax(-1)]
    assert float((best == np.asarray(found.labels.dataobj)).mean()) > 0.999
    assert loaded.segment(path).posteriors is None


def test_images_of_other_kinds(loaded, scan):
    path, _ = scan
    image = nb.load(path)
    data = np.asarray(image.dataobj)
    expected = np.asarray(loaded.segment(path).labels.dataobj)
    mgh = nb.MGHImage(data.astype(np.float32), image.affine)
    second = nb.Nifti2Image(data, image.affine)
    for other in (mgh, second):
        found = loaded.segment(other).labels
        assert isinstance(found, nb.Nifti2Image) == (other is second)
        np.testing.assert_array_equal(np.asarray(found.dataobj), expected)


def test_warnings_come_along(loaded, scan, tmp_path):
    image = nb.Nifti1Image(np.asarray(nb.load(scan[0]).dataobj), None)
    image.header["pixdim"][1:4] = 1.2
    image.to_filename(tmp_path / "placeless.nii")
    for given in (tmp_path / "placeless.nii", nb.load(tmp_path / "placeless.nii")):
        first, last = loaded.segment(given, memory_mb=1).warnings
        assert "neither qform nor sform is set" in first
        assert "more than the 1 MB it may" in last


def test_of_an_image_in_memory_the_affine_counts(loaded, scan, tmp_path, monkeypatch):
    image = nb.Nifti1Image(np.asarray(nb.load(scan[0]).dataobj), None)
    image.header.set_zooms((1.2, 1.2, 1.2))
    image.to_filename(tmp_path / "placeless.nii")
    placeless = nb.load(tmp_path / "placeless.nii")
    volumes = []
    kept = api.predict

    def keeping(model, volume, *rest, **options):
        volumes.append(volume)
        return kept(model, volume, *rest, **options)

    monkeypatch.setattr(api, "predict", keeping)
    found = loaded.segment(placeless).labels
    np.testing.assert_allclose(volumes[0].affine, placeless.affine, atol=1e-5)
    np.testing.assert_array_equal(found.affine, placeless.affine)
    assert int(found.header["sform_code"]) == int(found.header["qform_code"]) == 0
    loaded.segment(tmp_path / "placeless.nii")
    assert volumes[1].affine[0, 0] == -volumes[0].affine[0, 0] == pytest.approx(1.2)


def test_no_message_names_a_file_that_the_user_does_not_know(make_model, scan):
    broken = l2s_pydra.load_model(make_model("nan", weight=float("nan")))
    with pytest.raises(ModelError, match="posteriors for the image that are not numbers"):
        broken.segment(nb.load(scan[0]))


def test_draws_without_flips_are_an_option(loaded, scan):
    plain = loaded.segment(scan[0]).volumes_mm3["grey"]
    drawn = loaded.segment(scan[0], draws=2, flip=False).volumes_mm3["grey"]
    assert drawn != plain
    assert drawn == pytest.approx(plain, rel=0.3)


@pytest.mark.parametrize(
    ("image", "affine", "message"),
    [
        (np.ones((4, 5, 6)), None, "give its affine"),
        (np.ones((4, 5, 6)), np.eye(3), "4 x 4"),
        (np.ones((4, 5, 6)), np.eye(4), "the image: every voxel is 1"),
        (np.ones((4, 5)), np.eye(4), "the image: is not 3-D"),
        ("no_such.nii.gz", None, "no such file"),
        (object(), np.eye(4), "object is no image"),
    ],
)
def test_what_is_no_image_is_said(loaded, image, affine, message):
    with pytest.raises(ImageError, match=message):
        loaded.segment(image, affine=affine)


def test_an_affine_comes_with_arrays_only(loaded, scan):
    for image in (scan[0], nb.load(scan[0])):
        with pytest.raises(ConfigError, match="has its own"):
            loaded.segment(image, affine=AFFINE)


def test_no_model(tmp_path):
    with pytest.raises(ModelError, match="missing"):
        l2s_pydra.load_model(tmp_path)
