"""Files are read in parts, to their end, and no further than what they can hold."""

import gzip
import tracemalloc

import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import ImageError
from l2s_pydra.images import reading
from l2s_pydra.images.volume import load_image, load_labels

NIFTI1 = {"dim": (40, "<i2"), "pixdim": (76, "<f4"), "offset": (108, "<f4"), "units": (123, "u1")}
NIFTI2 = {"dim": (16, "<i8"), "offset": (168, "<i8")}


@pytest.fixture
def patched(write, data):
    """Write an image with some numbers of its header replaced."""

    def patched(field, index, value, name="a.nii", kind=nb.Nifti1Image):
        path = write(data, name=name, kind=kind)
        start, dtype = (NIFTI2 if kind is nb.Nifti2Image else NIFTI1)[field]
        content = bytearray(
            path.read_bytes() if name == "a.nii" else gzip.decompress(path.read_bytes())
        )
        size = np.dtype(dtype).itemsize
        at = start + index * size
        content[at : at + size] = np.array(value, dtype).tobytes()
        path.write_bytes(content if name == "a.nii" else gzip.compress(bytes(content)))
        return path

    return patched


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mgh"])
@pytest.mark.parametrize("dtype", ["u1", ">i2", "<f4"])
def test_parts_make_the_whole(write, data, name, dtype, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 100)
    kind = nb.MGHImage if name.startswith("a.mg") else nb.Nifti1Image
    stored = (data * 200).astype(dtype)
    path = write(stored, name=name, kind=kind)
    np.testing.assert_array_equal(load_image(path).data, stored.astype(np.float32))
    whole = write(np.rint(data * 200).astype(dtype), name="whole." + name, kind=kind)
    np.testing.assert_array_equal(load_labels(whole).data, np.rint(data * 200).astype(np.int32))


def test_scaling_is_nibabels(tmp_path, data, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 100)
    image = nb.Nifti1Image(data.astype(np.float64) * 7 - 3, np.eye(4))
    image.set_data_dtype(np.int16)
    image.to_filename(tmp_path / "a.nii.gz")
    expected = np.asanyarray(nb.load(tmp_path / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(
        load_image(tmp_path / "a.nii.gz").data, expected.astype(np.float32)
    )


@pytest.mark.parametrize("name", ["A.NII", "A.NII.GZ", "A.Mgz"])
def test_names_in_capitals(write, data, name):
    kind = nb.MGHImage if "M" in name else nb.Nifti1Image
    path = write(data, name=name.lower(), kind=kind)
    path = path.rename(path.with_name(name))
    np.testing.assert_array_equal(load_image(path).data, data)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("kind", "size"), [(nb.Nifti1Image, 32767), (nb.Nifti2Image, 2**31), (nb.Nifti2Image, 2**62)]
)
def test_sizes_beyond_the_file_are_refused_before_memory_is_taken(
    write, data, name, kind, size, one_line
):
    path = write(data, name=name, kind=kind)
    start, dtype = (NIFTI2 if kind is nb.Nifti2Image else NIFTI1)["dim"]
    opener = nb.openers.ImageOpener
    with opener(str(path)) as file:
        content = bytearray(file.read())
    width = np.dtype(dtype).itemsize
    content[start + width : start + 4 * width] = np.full(3, size, dtype).tobytes()
    # Voxels so small that the field of view is that of a head
    spacing = np.full(3, 100 / size, "<f4" if kind is nb.Nifti1Image else "<f8")
    pixdim = 80 if kind is nb.Nifti1Image else 112
    content[pixdim : pixdim + spacing.nbytes] = spacing.tobytes()
    with opener(str(path), "wb") as file:
        file.write(bytes(content))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as error:
            load_image(path)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()
    assert one_line(error, path, "promises")


@pytest.mark.parametrize("value", [-400, 1e30, np.inf, np.nan, 3.4e6])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_nowhere_in_the_file(patched, name, value, one_line):
    path = patched("offset", 0, value, name=name)
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "again")


@pytest.mark.parametrize("value", [-3, 0])
def test_axes_that_are_none(patched, value, one_line):
    path = patched("dim", 2, value)
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "again")


def test_a_file_that_goes_on_for_ever(write, data, monkeypatch, one_line):
    monkeypatch.setattr(reading, "_MOST_BEHIND", 2**20)
    path = write(data)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**22)))
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "goes on")


def test_notes_behind_the_voxels_are_no_fault(write, data):
    path = write(data, name="a.mgz", kind=nb.MGHImage)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(5000)))
    np.testing.assert_array_equal(load_image(path).data, data)


@pytest.mark.parametrize("stray", [b"x", b"no gzip stream", b"\x1f!", b"\0\0end"])
@pytest.mark.parametrize("members", [1, 2])
def test_bytes_behind_the_compressed_stream_are_told(write, data, stray, members, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 2**10)
    path = write(data)
    content = gzip.decompress(path.read_bytes())
    cut = len(content) // members
    parts = [content] if members == 1 else [content[:cut], content[cut:]]
    path.write_bytes(b"".join(map(gzip.compress, parts)) + stray)
    image = load_image(path)
    np.testing.assert_array_equal(image.data, nb.load(path).get_fdata(dtype=np.float32))
    (warning,) = image.warnings
    assert warning.startswith(f"{len(stray)} bytes that do not belong to it")


def test_bytes_behind_a_stream_do_not_excuse_its_checksum(write, data, one_line):
    path = write(data)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(bytes(content) + b"stray")
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "again")


def test_bytes_instead_of_the_rest_of_the_voxels(write, data, one_line):
    path = write(data)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: len(content) // 2]) + b"stray")
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "again")


def test_a_wrong_checksum(write, data, one_line):
    path = write(data)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "again")


def test_surfaces_and_time_series_of_vertices_are_no_volumes(tmp_path, one_line):
    axes = (
        nb.cifti2.SeriesAxis(0, 1, 3),
        nb.cifti2.BrainModelAxis.from_mask(np.ones(5, bool), "left_cortex"),
    )
    path = tmp_path / "a.dtseries.nii"
    nb.Cifti2Image(np.random.default_rng(0).random((3, 5)), axes).to_filename(path)
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, "Cifti2", "NIfTI volume")


def test_what_nibabel_mends_is_told_and_not_printed(patched, capfd, caplog):
    path = patched("pixdim", 2, -1.1)
    (warning,) = load_image(path).warnings
    assert "header is odd: pixdim" in warning
    assert capfd.readouterr().err == ""
    assert str(path) in caplog.text


def test_extensions_that_break_rules_are_told(write, data):
    path = write(data, name="a.nii")
    content = path.read_bytes()
    extension = np.array([20, 6], "<i4").tobytes() + b"twelve bytes"
    header = bytearray(content[:352])
    header[348] = 1
    header[108:112] = np.float32(372).tobytes()
    path.write_bytes(bytes(header) + extension + content[352:])
    volume = load_image(path)
    assert any("multiple of 16" in warning for warning in volume.warnings)
    np.testing.assert_array_equal(volume.data, data)


@pytest.mark.parametrize(("code", "words"), [(1, "metres"), (3, "micrometres"), (2, ""), (0, "")])
def test_units_of_length(patched, code, words):
    warnings = load_image(patched("units", 0, code | 8)).warnings
    assert [words in warning for warning in warnings] == [True] * bool(words)


def test_freesurfer_file_without_orientation(write, data):
    path = write(data, name="a.mgh", kind=nb.MGHImage)
    content = bytearray(path.read_bytes())
    content[28:30] = bytes(2)
    path.write_bytes(content)
    volume = load_image(path)
    (warning,) = volume.warnings
    assert "goodRASFlag" in warning
    assert nb.aff2axcodes(volume.affine) == ("L", "I", "A")
    np.testing.assert_array_equal(nb.affines.voxel_sizes(volume.affine), 1)
    # FreeSurfer counts to the middle voxel, of an even axis the upper of two
    np.testing.assert_allclose(volume.affine @ [3, 3.5, 4, 1], [0, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("value", [5, np.nan])
def test_qform_that_is_no_rotation(write, data, oblique, value):
    path = write(data, name="a.nii", qform_code=1)
    content = bytearray(path.read_bytes())
    content[256:268] = np.full(3, value, "<f4").tobytes()
    path.write_bytes(content)
    volume = load_image(path)
    assert volume.warnings == ("its qform is no rotation; used the sform",)
    np.testing.assert_allclose(volume.affine, oblique, atol=1e-6)


@pytest.mark.parametrize(("size", "words"), [(90.0, "1 x 90 x 1 mm"), (1e-5, "1 x 1e-05 x 1 mm")])
def test_voxels_that_no_scanner_makes(write, data, size, words, one_line):
    path = write(data, np.diag([1, size, 1, 1]))
    with pytest.raises(ImageError) as error:
        load_image(path)
    assert one_line(error, path, words, "correct the voxel size")


def test_single_slices_may_be_thick(write, data):
    path = write(data[:1], np.diag([90.0, 1, 1, 1]))
    assert load_image(path, allow_2d=True).spacing_mm == (90, 1, 1)


def test_values_that_nothing_is_measured_in(write, data):
    data[2, 3, 4], data[0, 0, 0] = 1e30, np.nan
    volume = load_image(write(data))
    assert volume.data[2, 3, 4] == volume.data[0, 0, 0] == 0
    assert volume.warnings == (
        "1 voxels are not finite numbers and were set to 0",
        "1 voxels are beyond 1e+18 and were set to 0",
    )
