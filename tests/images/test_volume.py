"""Every file that breaks is one that people have."""

import gzip
import logging

import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import GridMismatchError, ImageError, LabelError
from l2s_pydra.images.volume import (
    check_same_grid,
    load_image,
    load_labels,
    voxel_volume_mm3,
)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
def test_load_agrees_with_nibabel(write, data, name):
    kind = nb.MGHImage if name.endswith("mgz") else nb.Nifti1Image
    path = write(data, name=name, kind=kind)
    volume = load_image(path)
    reference = nb.load(path)
    np.testing.assert_array_equal(volume.data, reference.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(volume.affine, reference.affine)
    assert volume.data.dtype == np.float32
    assert volume.path == path
    assert volume.warnings == ()


@pytest.mark.parametrize("dtype", [">i2", ">f4", "<f8", "u1", "<i4"])
def test_any_type_becomes_native_float32(tmp_path, data, dtype):
    stored = (data * 100).astype(dtype)
    header = nb.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    nb.Nifti1Image(stored, np.eye(4), header).to_filename(tmp_path / "a.nii.gz")
    loaded = load_image(tmp_path / "a.nii.gz").data
    assert loaded.dtype.isnative
    np.testing.assert_allclose(loaded, stored.astype(np.float32), rtol=1e-6)


def test_scaling_of_the_header_is_applied(tmp_path):
    image = nb.Nifti1Image(np.arange(24.0).reshape(2, 3, 4) / 10 - 1, np.eye(4))
    image.set_data_dtype(np.uint8)
    image.to_filename(tmp_path / "a.nii")
    assert nb.load(tmp_path / "a.nii").dataobj.inter != 0
    np.testing.assert_allclose(
        load_image(tmp_path / "a.nii").data.ravel(), np.arange(24) / 10 - 1, atol=0.01
    )


def test_trailing_axes_of_length_one_are_dropped(write, data):
    assert load_image(write(data[..., None, None])).shape == data.shape


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((6, 7, 8, 10), "has 10 volumes"),
        ((6, 7, 8, 1, 3), "has 3 volumes"),
        ((6, 7, 1), "2-D model"),
        ((6, 7), "2-D model"),
        ((1, 1, 6), "not 3-D"),
    ],
)
def test_other_dimensions_are_refused(write, shape, words, one_line):
    path = write(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, words)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (6, 1, 7), (1, 6, 7), (6, 7, 1, 1)])
def test_slices_are_allowed_on_request(write, shape):
    path = write(np.arange(42, dtype=np.float32).reshape(shape))
    assert load_image(path, allow_2d=True).shape == (*shape, 1)[:3]


def test_missing_file(tmp_path, one_line):
    with pytest.raises(ImageError) as error:
        load_image(tmp_path / "none.nii.gz")
    assert one_line(error, tmp_path / "none.nii.gz", "check the path")


def test_link_to_content_that_is_not_here(tmp_path, one_line):
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "annex")
    with pytest.raises(ImageError) as error:
        load_image(tmp_path / "a.nii.gz")
    assert one_line(error, tmp_path / "a.nii.gz", "datalad get")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_truncated_file(write, data, name, kept, one_line):
    data = np.repeat(data, 8, axis=0)
    path = write(data, name=name, kind=nb.MGHImage if name.endswith("mgz") else nb.Nifti1Image)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "again")


@pytest.mark.parametrize(
    "content", [b"not an image", gzip.compress(b"not an image", mtime=0), bytes(400)]
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz"])
def test_other_content(tmp_path, content, name, one_line):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as error:
        load_image(tmp_path / name)
    assert one_line(error, tmp_path / name, "again")


def test_corrupt_byte_in_the_middle(write, data, one_line):
    path = write(np.repeat(data, 8, axis=0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "again")


def test_header_that_promises_too_much(write, data, one_line):
    path = write(data, name="a.nii")
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32000, 32000, 32000], dtype="<i2").tobytes()
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path)


def test_unknown_format_and_folder(tmp_path, one_line):
    (tmp_path / "a.dcm").write_bytes(b"x")
    for path in (tmp_path / "a.dcm", tmp_path):
        with pytest.raises(ImageError) as error:
            load_image(path)
        assert one_line(error, path)


@pytest.mark.parametrize("value", [0, 7])
def test_constant_image(write, value, one_line):
    path = write(np.full((4, 4, 4), value, dtype=np.float32))
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, f"every voxel is {value}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_image_without_a_finite_voxel(write, value, one_line):
    path = write(np.full((4, 4, 4), value, dtype=np.float32))
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "no voxel")


def test_some_voxels_not_finite(write, data, caplog):
    data[0, 0] = np.nan
    data[1, 1, 1] = -np.inf
    path = write(data)
    with caplog.at_level(logging.WARNING):
        volume = load_image(path)
    assert volume.data[0, 0].tolist() == [0] * 8
    assert volume.data[1, 1, 1] == 0
    assert volume.warnings == ("9 voxels are not finite numbers and were set to 0",)
    assert str(path) in caplog.text


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**-40, 2.0**-130])
def test_small_intensities_are_enlarged_exactly(write, data, unit):
    loaded = load_image(write(data)).data
    enlarged = load_image(write(np.ldexp(data, 10) * np.float32(unit))).data
    assert 1 <= np.ptp(enlarged) < 2
    # Those of fewer than 24 bits left are not exact any more, whatever becomes of them
    np.testing.assert_allclose(
        enlarged / np.ptp(enlarged),
        loaded / np.ptp(loaded),
        rtol=0,
        atol=1e-7 if unit > 1e-30 else 1e-3,
    )


def test_values_beyond_float32_count_as_not_finite(write, data):
    data = data.astype(np.float64)
    data[0, 0, 0] = 1e300
    assert load_image(write(data)).warnings


def test_colour_and_complex_images(write, tmp_path, one_line):
    colour = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for data in (colour, np.ones((4, 4, 4), dtype=np.complex64)):
        path = write(data)
        with pytest.raises(ImageError) as error:
            load_image(path)
        assert one_line(error, path, "greyscale")


def broken_affine(name, oblique):
    affine = oblique.copy()
    if name == "singular":
        affine[:, 1] = affine[:, 0]
    elif name == "zero":
        affine[:3, :3] = 0
    elif name == "nan":
        affine[0, 0] = np.nan
    elif name == "far":
        affine[0, 3] = -2e5
    elif name == "metres":
        affine[:3] *= 1e-3
    else:
        affine[:3] *= 1e3
    return affine


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("singular", "singular"),
        ("zero", "singular"),
        ("nan", "not finite"),
        ("far", "2e+05 mm from the origin"),
        ("metres", "in mm"),
        ("micrometres", "in mm"),
    ],
)
def test_broken_affine(write, data, name, words, one_line, oblique):
    rows = broken_affine(name, oblique)[:3].astype(np.float32)
    path = write(data, sform_code=1, srow_x=rows[0], srow_y=rows[1], srow_z=rows[2])
    # nibabel mends the sform of the image it writes, so patch the file
    with gzip.open(path) as file:
        content = bytearray(file.read())
    content[280:328] = rows.tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, words, "correct")


def test_header_without_orientation_is_taken_as_ras(tmp_path, data):
    image = nb.Nifti1Image(data, None)
    image.header.set_zooms((1, 2, 3))
    image.header["qform_code"] = image.header["sform_code"] = 0
    image.to_filename(tmp_path / "a.nii")
    volume = load_image(tmp_path / "a.nii")
    (warning,) = volume.warnings
    assert "RAS+" in warning
    assert "left and right" in warning
    np.testing.assert_array_equal(volume.affine[:3, :3], np.diag([1, 2, 3]))
    middle = (np.array(data.shape) - 1) / 2
    np.testing.assert_allclose(volume.affine @ [*middle, 1], [0, 0, 0, 1], atol=1e-12)


def test_labels_stored_as_floats(write):
    labels = np.arange(-12, 12).reshape(2, 3, 4)
    volume = load_labels(write(labels.astype(np.float32)))
    assert volume.data.dtype == np.int32
    np.testing.assert_array_equal(volume.data, labels)


def test_labels_with_a_slope(tmp_path):
    labels = np.arange(256).reshape(4, 8, 8)
    image = nb.Nifti1Image(labels * (1 / 255) * 255, np.eye(4))
    image.set_data_dtype(np.uint8)
    image.header.set_slope_inter(1.0000001, 0)
    image.to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(load_labels(tmp_path / "a.nii").data, labels)


def test_large_labels_are_exact(write):
    labels = np.array([0, 2**24 + 1, 2**31 - 1, -(2**31)], dtype=np.int32).reshape(1, 2, 2)
    path = write(np.concatenate([labels, labels]))
    np.testing.assert_array_equal(load_labels(path).data[0], labels[0])


@pytest.mark.parametrize("value", [0.5, np.nan, 2.0**33])
def test_labels_that_are_none(write, value, one_line):
    data = np.arange(24.0).reshape(2, 3, 4)
    data[0, 0, 0] = value
    path = write(data)
    with pytest.raises(LabelError) as error:
        load_labels(path)
    assert one_line(error, path)


def test_constant_labels(write, one_line):
    path = write(np.zeros((4, 4, 4), dtype=np.uint8))
    with pytest.raises(ImageError) as error:
        load_labels(path)
    assert one_line(error, path, "every voxel is 0")
    assert load_labels(path, allow_constant=True).data.max() == 0


def test_same_grid(write, data, one_line, oblique):
    image = load_image(write(data))
    labels = load_labels(write((data * 9).astype(np.uint8), name="labels.nii.gz"))
    check_same_grid(image, labels)
    cut = load_labels(write((data * 9).astype(np.uint8)[1:], name="cut.nii.gz"))
    moved = oblique.copy()
    moved[2, 3] += 0.01
    shifted = load_labels(write((data * 9).astype(np.uint8), moved, name="shifted.nii.gz"))
    for other, words in ((cut, "5 x 7 x 8"), (shifted, "0.01 mm")):
        with pytest.raises(GridMismatchError) as error:
            check_same_grid(image, other)
        assert one_line(error, image.path, str(other.path), words, "resample")


def test_turned_grid_of_equal_centre_is_another_grid(write, data, oblique):
    turned = oblique.copy()
    turned[:3, :3] = oblique[:3, :3] @ np.diag([-1, -1, 1])
    middle = (np.array(data.shape) - 1) / 2
    turned[:3, 3] += (oblique - turned)[:3, :3] @ middle
    with pytest.raises(GridMismatchError):
        check_same_grid(
            load_image(write(data)), load_image(write(data, turned, name="turned.nii.gz"))
        )


def test_voxel_volume(oblique):
    assert voxel_volume_mm3(oblique) == pytest.approx(abs(np.linalg.det(oblique[:3, :3])))
