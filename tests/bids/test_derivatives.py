import pytest

from l2s_pydra.bids.derivatives import (
    dataset_path,
    derivative_path,
    desc_label,
)
from l2s_pydra.bids.entities import parse_name
from l2s_pydra.errors import DatasetError
from l2s_pydra.steps.outputs import DATASET_OUTPUTS, IMAGE_OUTPUTS


@pytest.mark.parametrize(
    ("image", "key", "expected"),
    [
        ("sub-01_T1w", "dseg", "sub-01/anat/sub-01_seg-x_desc-T1w_dseg.nii.gz"),
        ("sub-01_T2w", "dseg_tsv", "sub-01/anat/sub-01_seg-x_desc-T2w_dseg.tsv"),
        (
            "sub-01_ses-a_acq-b_ce-c_rec-d_run-02_FLAIR",
            "probseg",
            "sub-01/ses-a/anat/"
            "sub-01_ses-a_acq-b_ce-c_rec-d_run-02_seg-x_desc-FLAIR_probseg.nii.gz",
        ),
        (
            "sub-01_space-MNI_res-2_desc-preproc_T1w",
            "mask",
            "sub-01/anat/sub-01_space-MNI_res-2_label-brain_desc-preprocT1w_mask.nii.gz",
        ),
        ("sub-01_ses-a_T1w", "figure", "sub-01/figures/sub-01_ses-a_seg-x_desc-T1w_dseg.png"),
    ],
)
def test_path(image, key, expected):
    path = derivative_path(parse_name(image), IMAGE_OUTPUTS[key], segmentation="x")
    assert str(path) == expected


def test_paths_of_different_images_differ():
    images = ["sub-1_T1w", "sub-1_T2w", "sub-1_run-1_T1w", "sub-1_ses-1_T1w", "sub-1_acq-1_T1w"]
    paths = {
        derivative_path(parse_name(image), row, segmentation="x")
        for image in images
        for row in IMAGE_OUTPUTS.values()
    }
    assert len(paths) == len(images) * len(IMAGE_OUTPUTS)


def test_segmentation_must_be_a_label():
    with pytest.raises(DatasetError, match="'my-seg' cannot be the segmentation"):
        derivative_path(parse_name("sub-1_T1w"), IMAGE_OUTPUTS["dseg"], segmentation="my-seg")


def test_desc_label():
    assert desc_label({"suffix": "T1w", "desc": "preproc"}) == "preprocT1w"


def test_dataset_path():
    path = dataset_path(DATASET_OUTPUTS["run"], participant="sub-01", run="r")
    assert str(path) == "sub-01/log/r/l2s_pydra.toml"
