"""Outputs that are written on request, and what they say of themselves."""

import json

import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import ConfigError, LabelError
from l2s_pydra.segmentation import Model

GREY, WHITE = 3, 41
ENTITIES = {"subject": "01", "suffix": "T1w"}
ANAT = "sub-01/anat/sub-01"
AFFINE = np.diag([-1.5, 1.5, 1.5, 1.0])


@pytest.fixture
def run(make_model, segmented):
    def run(image, folder=None, **options):
        source = "sub-01/anat/sub-01_T1w.nii.gz"
        given = {"entities": ENTITIES, "source": source, **options}
        return segmented(image, folder or make_model(), **given)

    return run


def values(result, name):
    return np.asanyarray(nb.load(result.tree / f"{ANAT}_{name}.nii.gz").dataobj)


def sidecar(result, name):
    return json.loads((result.tree / f"{ANAT}_{name}.json").read_text())


def test_entropy_is_that_of_the_posteriors(phantom, run):
    result = run(phantom(AFFINE)[0], probseg=True, entropy=True)
    entropy = values(result, "seg-tissue_desc-T1wEntropy_probseg")
    assert entropy.min() >= 0
    assert 0.1 < entropy.max() <= 1
    p = values(result, "seg-tissue_desc-T1w_probseg")
    sure = p.max(-1) > 0.9999
    assert entropy[sure].mean() < 0.05 < entropy[~sure].mean()
    said = sidecar(result, "seg-tissue_desc-T1wEntropy_probseg")
    assert said["NatsPerUnit"] == pytest.approx(np.log(3), abs=1e-6)
    assert said["Labels"] == ["background", "grey", "white"]


def test_outputs_on_the_grid_of_the_network(phantom, run):
    path, _ = phantom(AFFINE)
    image = nb.load(path)
    image.set_sform(image.affine, code="mni")
    image.to_filename(path)
    result = run(path, res="1mm", probseg=True, entropy=True)
    own = nb.load(result.tree / f"{ANAT}_seg-tissue_desc-T1w_dseg.nii.gz")
    there = nb.load(result.tree / f"{ANAT}_seg-tissue_res-1mm_desc-T1w_dseg.nii.gz")
    assert own.header.get_zooms() == (1.5, 1.5, 1.5)
    assert there.header.get_zooms() == (1, 1, 1)
    assert nb.aff2axcodes(there.affine) == ("R", "A", "S")
    assert int(there.header["sform_code"]) == int(own.header["sform_code"]) == 4
    volumes = [
        np.count_nonzero(np.asanyarray(image.dataobj)) * np.prod(image.header.get_zooms())
        for image in (own, there)
    ]
    # Edges are where the blurred image is above 0.3
    assert volumes[0] == pytest.approx(volumes[1], rel=0.1)
    mask = values(result, "res-1mm_label-brain_desc-T1w_mask")
    np.testing.assert_array_equal(mask, np.asanyarray(there.dataobj) > 0)
    p = values(result, "seg-tissue_res-1mm_desc-T1w_probseg")
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-4)
    assert values(result, "seg-tissue_res-1mm_desc-T1wEntropy_probseg").shape == there.shape
    interpolated = [
        "interpolated" in sidecar(result, f"seg-tissue{res}_desc-T1wEntropy_probseg")["Measure"]
        for res in ("", "_res-1mm")
    ]
    assert interpolated == [True, False]
    for name in ("dseg", "probseg"):
        said = sidecar(result, f"seg-tissue_res-1mm_desc-T1w_{name}")
        assert said["Resolution"].startswith("1 mm")
    assert "Resolution" not in sidecar(result, "seg-tissue_desc-T1w_dseg")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"res": "2mm"}, "--res 1mm"),
        ({"res": "1mm", "entities": {**ENTITIES, "res": "1mm"}}, "res-1mm already"),
    ],
)
def test_another_grid_is_refused(phantom, run, options, words):
    with pytest.raises(ConfigError, match=words):
        run(phantom(AFFINE)[0], **options)


def test_an_image_without_a_place_has_no_outputs_on_another_grid(phantom, run):
    path, _ = phantom(AFFINE)
    image = nb.load(path)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.to_filename(path)
    result = run(path, res="1mm", probseg=True)
    assert not [path for path in result.files if "res-1mm" in path.name]
    own = nb.load(result.tree / f"{ANAT}_seg-tissue_desc-T1w_dseg.nii.gz")
    assert int(own.header["sform_code"]) == int(own.header["qform_code"]) == 0
    np.testing.assert_array_equal(own.affine, nb.load(path).affine)
    (warning,) = json.loads(result.summary.read_text())["warnings"]
    assert "nothing was written on the grid of the network" in warning


def islands(path):
    image = nb.load(path)
    data = np.asanyarray(image.dataobj).copy()
    data[1:6, 1:6, 1:6] = 200
    nb.Nifti1Image(data, image.affine).to_filename(path)
    return path


def test_largest_pieces_and_the_record_of_what_was_taken(phantom, run):
    path = islands(phantom(AFFINE)[0])
    assert (values(run(path), "seg-tissue_desc-T1w_dseg")[1:6, 1:6, 1:6] == WHITE).any()
    # Neither has a side, so that without names none is taken
    kept = run(path, keep_largest=[])
    assert (values(kept, "seg-tissue_desc-T1w_dseg")[1:6, 1:6, 1:6] == WHITE).any()
    assert "LargestPieceOnly" not in sidecar(kept, "seg-tissue_desc-T1w_dseg")
    result = run(path, keep_largest=["white", "grey"], res="1mm")
    dseg = values(result, "seg-tissue_desc-T1w_dseg")
    assert not dseg[:7, :7, :7].any()
    said = sidecar(result, "seg-tissue_desc-T1w_dseg")["LargestPieceOnly"]
    assert said["Structures"] == ["grey", "white"]
    (white,) = (row for row in said["Removed"] if row["Name"] == "white")
    assert white["VolumeMm3"] == pytest.approx(white["Voxels"] * 1.5**3)
    assert json.loads(result.summary.read_text())["removed"] == said["Removed"]
    there = values(result, "seg-tissue_res-1mm_desc-T1w_dseg")
    assert not there[-8:, :8, :8].any()
    with pytest.raises(LabelError, match="'amygdala'"):
        run(path, keep_largest=["amygdala"])


def test_a_model_from_elsewhere_is_named_by_its_checksum_alone(phantom, run, make_model):
    folder = make_model()
    result = run(phantom(AFFINE)[0], folder, model_in_dataset=False, entropy=True)
    for name in ("seg-tissue_desc-T1w_dseg", "seg-tissue_desc-T1wEntropy_probseg"):
        said = sidecar(result, name)
        assert said["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
        assert said["ModelSHA256"] == Model.load(folder).sha256


def test_a_calibrated_model_predicts_dice(phantom, run, make_model):
    line = {"intercept": 0.05, "slope": 0.5, "images": 3, "validation_dice": 0.9}
    quality = {"images": 3, "error": 0.02, "lines": {"grey": line, "white": line}}
    result = run(phantom(AFFINE)[0], make_model("calibrated", quality=quality))
    summary = json.loads(result.summary.read_text())
    for row in summary["volumes"]:
        assert row["predicted_dice"] == pytest.approx(0.05 + 0.5 * row["self_dice"], abs=1e-5)
    assert summary["calibration"] == {"images": 3, "error": 0.02}
    assert any("well below" in flag["text"] for flag in summary["flags"])
    assert "3 validation images" in sidecar(result, "seg-tissue_desc-T1w_morph")["PredictedDice"]


@pytest.mark.parametrize("options", [{"test_time_draws": 2}, {"flip": False}])
def test_how_it_was_averaged_is_told(phantom, run, options):
    result = run(phantom(AFFINE)[0], **options)
    said = sidecar(result, "seg-tissue_desc-T1w_dseg")
    assert said["TestTimeDraws"] == options.get("test_time_draws", 1)
    assert said["FlipAveraging"] == options.get("flip", True)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_that_were_repeated_are_told(phantom, run, axis):
    path, truth = phantom(AFFINE)
    assert "RepeatedSlices" not in sidecar(run(path), "seg-tissue_desc-T1w_dseg")
    image = nb.load(path)
    slicer = [slice(None)] * 3
    slicer[axis] = slice(13, 18)
    image.slicer[tuple(slicer)].to_filename(path)
    result = run(path)
    said = sidecar(result, "seg-tissue_desc-T1w_dseg")["RepeatedSlices"]
    assert (said["Axis"], said["Before"]) == (axis, said["After"])
    assert said["Resliced"] is False
    # 12 % of the ball's diameter of 22 mm, and of its slices as far as they are full
    assert 1.5 < said["Before"] * image.header.get_zooms()[axis] < 4
    assert any("shows only" in text for text in json.loads(result.summary.read_text())["warnings"])
    # Labels do not change, as this model looks at no neighbours
    (file,) = result.tree.rglob("*_desc-T1w_dseg.nii.gz")
    differ = np.asarray(nb.load(file).dataobj) != truth[tuple(slicer)]
    assert differ.mean() < 0.05


@pytest.mark.parametrize(("axis", "mirrored"), [(0, False), (1, True), (2, True)])
def test_a_slice_is_averaged_with_its_mirror_image_where_it_has_two_sides(
    phantom, make_model, run, axis, mirrored
):
    path, _ = phantom(AFFINE)
    image = nb.load(path)
    slicer = [slice(None)] * 3
    slicer[axis] = slice(15, 16)
    image.slicer[tuple(slicer)].to_filename(path)
    result = run(path, make_model("flat", ndim=2))
    assert sidecar(result, "seg-tissue_desc-T1w_dseg")["FlipAveraging"] is mirrored


def test_intracranial_volume_needs_fluid(phantom, run):
    result = run(phantom(AFFINE)[0])
    inside = json.loads(result.summary.read_text())["intracranial"]
    assert inside["volume_mm3"] is None
    said = sidecar(result, "seg-tissue_desc-T1w_morph")
    assert said["IntracranialNotAvailable"] == inside["reason"]
    assert "fluid" in inside["reason"]
