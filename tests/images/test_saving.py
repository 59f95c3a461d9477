"""What is saved has the place of its source and nothing else of it."""

import attrs
import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import ImageError
from l2s_pydra.images.conform import Conform
from l2s_pydra.images.saving import save_float, save_labels, save_probabilities
from l2s_pydra.images.volume import load_image, load_labels


@pytest.mark.parametrize("codes", [(1, 2), (0, 1), (3, 0), (0, 0)])
@pytest.mark.parametrize("kind", [nb.Nifti1Image, nb.Nifti2Image])
def test_saved_geometry_is_the_sources_byte_by_byte(tmp_path, data, codes, kind, oblique):
    # An improper rotation and a qform that differs from the sform
    image = kind(data, oblique)
    image.set_qform(np.diag([-1.5, 1.1, 2, 1]) + np.eye(4, k=3) * 7, code=codes[0])
    image.set_sform(oblique if codes[1] else None, code=codes[1])
    image.header["descrip"] = b"a long story"
    image.header["cal_max"] = 99
    image.header.set_intent("z score")
    image.header.extensions.append(nb.nifti1.Nifti1Extension("comment", b"who knows"))
    image.to_filename(tmp_path / "source.nii.gz")
    source = load_image(tmp_path / "source.nii.gz")
    labels = (data * 5).astype(np.int64)
    saved = nb.load(save_labels(tmp_path / "labels.nii.gz", labels, source))
    assert type(saved) is kind
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x"):
        assert saved.header[field] == source.header[field]
    for field in ("srow_x", "srow_y", "srow_z"):
        assert saved.header[field].tobytes() == source.header[field].tobytes()
    assert saved.header["pixdim"][:4].tobytes() == source.header["pixdim"][:4].tobytes()
    np.testing.assert_array_equal(saved.affine, nb.load(source.path).affine)
    np.testing.assert_array_equal(np.asanyarray(saved.dataobj), labels)
    assert saved.get_data_dtype() == np.uint8
    assert saved.header.get_xyzt_units()[0] == "mm"
    assert saved.dataobj.slope == 1
    assert saved.header["descrip"].item() == b""
    assert saved.header["cal_max"] == 0
    assert saved.header["intent_code"] == 0
    assert not saved.header.extensions


def test_from_big_endian_and_from_freesurfer(tmp_path, data, oblique):
    nb.Nifti1Image(data, oblique, nb.Nifti1Header(endianness=">")).to_filename(tmp_path / "a.nii")
    nb.MGHImage(data, oblique).to_filename(tmp_path / "b.mgz")
    for name, codes in (("a.nii", (0, 2)), ("b.mgz", (1, 1))):
        source = load_image(tmp_path / name)
        saved = nb.load(save_float(tmp_path / "out.nii", data * 2, source))
        np.testing.assert_allclose(saved.affine, source.affine, atol=1e-5)
        np.testing.assert_array_equal(saved.get_fdata(dtype=np.float32), data * 2)
        assert (saved.header["qform_code"], saved.header["sform_code"]) == codes


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 255, "u1"), (0, 256, "i2"), (-1, 5, "i2"), (0, 40000, "i4"), (-40000, 0, "i4")],
)
def test_smallest_integer_type(write, data, tmp_path, low, high, dtype):
    labels = np.full(data.shape, low)
    labels[0, 0, 0] = high
    saved = save_labels(tmp_path / "out.nii.gz", labels, load_image(write(data)))
    assert nb.load(saved).get_data_dtype() == dtype
    np.testing.assert_array_equal(load_labels(saved).data, labels)


def test_probabilities(write, data, tmp_path):
    source = load_image(write(data))
    saved = nb.load(save_probabilities(tmp_path / "p.nii.gz", iter([data, 1 - data]), 2, source))
    assert saved.shape == (*data.shape, 2)
    assert saved.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_array_equal(saved.affine, source.affine)
    expected = np.stack([data, 1 - data], axis=-1)
    np.testing.assert_allclose(saved.get_fdata(), expected, atol=2e-5)
    assert saved.get_fdata().max() <= 1


def test_equal_data_give_equal_bytes_and_no_leftovers(write, data, tmp_path):
    source = load_image(write(data))
    first = save_labels(tmp_path / "one.nii.gz", (data * 5).astype(int), source).read_bytes()
    second = save_labels(tmp_path / "two.nii.gz", (data * 5).astype(int), source).read_bytes()
    assert first == second
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "image.nii.gz",
        "one.nii.gz",
        "two.nii.gz",
    ]


def test_failed_save_leaves_the_old_file(write, data, tmp_path, one_line):
    source = load_image(write(data))
    path = save_float(tmp_path / "out.nii.gz", data, source)
    before = path.read_bytes()

    def frames():
        yield data
        raise OSError("disk full")

    with pytest.raises(ImageError) as error:
        save_probabilities(path, frames(), 2, source)
    assert one_line(error, path, "disk full", "space")
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_save_refuses_another_shape(write, data, tmp_path):
    source = load_image(write(data))
    with pytest.raises(ImageError, match="not on the grid"):
        save_float(tmp_path / "out.nii.gz", data[1:], source)


@pytest.mark.parametrize(("codes", "kept"), [((0, 4), 4), ((1, 0), 1), ((1, 2), 2), ((0, 0), 1)])
def test_another_grid_lies_in_the_space_of_the_source(tmp_path, data, oblique, codes, kept):
    image = nb.Nifti1Image(data, oblique)
    image.set_qform(oblique, code=codes[0])
    image.set_sform(oblique if codes[1] else None, code=codes[1])
    image.to_filename(tmp_path / "source.nii")
    source = load_image(tmp_path / "source.nii")
    conform = Conform.to_grid(source, 2.0)
    grid = attrs.evolve(source, data=conform.image(source), affine=conform.affine)
    saved = nb.load(save_float(tmp_path / "out.nii", grid.data, grid))
    np.testing.assert_allclose(saved.affine, conform.affine, atol=1e-5)
    np.testing.assert_allclose(saved.get_qform(), conform.affine, atol=1e-5)
    assert (saved.header["qform_code"], saved.header["sform_code"]) == (kept, kept)
