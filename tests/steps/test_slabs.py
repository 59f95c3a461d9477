"""Scans of a few slices, through the whole way from a file to labels."""

import nibabel as nb
import numpy as np
import pytest
import torch
from nibabel.eulerangles import euler2mat

from l2s_pydra import load_model
from l2s_pydra.config import SynthesisConfig, preset
from l2s_pydra.images.coverage import REPEAT_MM
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.segmentation import Model, Segmenter

SHAPE = (40, 44, 14)
THICK = 14


@pytest.fixture
def looking_around(tmp_path):
    """A model of random weights, whose labels depend on what surrounds a voxel."""
    learn = preset("quick").evolve(
        spacing_mm=1.0, segmenter__width=4, segmenter__depth=3, training__precision="fp32"
    )
    torch.manual_seed(3)
    segmenter = Segmenter(learn.segmenter, 3)
    with torch.no_grad():
        segmenter.unet.final.weight.mul_(30)
    scheme = LabelScheme([Label(index=3, name="grey"), Label(index=41, name="white")])
    config = {"learn": learn.to_dict(), "segmentation": "tissue", "name": "m", "version": "0"}
    Model(
        segmenter=segmenter, scheme=scheme, config={**config, "skull_stripped": True, "theta": {}}
    ).save(tmp_path / "m")
    return load_model(tmp_path / "m")


def slab():
    rng = np.random.default_rng(5)
    data = 40 + 60 * rng.random(SHAPE, dtype=np.float32)
    data[:3] = data[-3:] = data[:, :3] = data[:, -3:] = 0
    return data


def padded(data, before, after, affine, mode):
    affine = affine.copy()
    affine[:3, 3] -= before * affine[:3, 2]
    return nb.Nifti1Image(np.pad(data, ((0, 0), (0, 0), (before, after)), mode=mode), affine)


@pytest.mark.parametrize("black", [0, 2])
def test_a_slab_is_segmented_as_if_its_outermost_slices_went_on(looking_around, black):
    data, affine = slab(), np.diag([1.0, 1, 1, 1])
    found = looking_around.segment(padded(data, black, black, affine, "constant"), posteriors=True)
    assert [w for w in found.warnings if "shows only 14 mm" in w]
    # 5 mm are 12 % of 38, the longest side; then it is no slab any more
    drawn_out = looking_around.segment(padded(data, 5, 5, affine, "edge"), posteriors=True)
    assert not [w for w in drawn_out.warnings if "shows only" in w]
    labels = np.asarray(found.labels.dataobj)
    inner = slice(black, black + THICK)
    expected = np.asarray(drawn_out.labels.dataobj)[:, :, 5 : 5 + THICK]
    np.testing.assert_array_equal(labels[:, :, inner], expected)
    assert len(np.unique(expected)) == 3
    probabilities = np.asarray(found.posteriors.dataobj)
    np.testing.assert_allclose(
        probabilities[:, :, inner],
        np.asarray(drawn_out.posteriors.dataobj)[:, :, 5 : 5 + THICK],
        atol=1e-5,
    )
    outside = np.ones(labels.shape[2], bool)
    outside[inner] = False
    assert not labels[:, :, outside].any()
    np.testing.assert_allclose(probabilities[:, :, outside, 0], 1, atol=1e-4)
    # The slab alone would have other labels: this network looks around
    bare = looking_around.model.predict(torch.from_numpy(data)).labels().numpy()
    assert (looking_around.model.scheme.to_indices(bare) != expected).mean() > 0.02


def test_volumes_are_of_the_slab_alone(looking_around):
    affine = np.diag([1.0, 1, 1, 1])
    found = looking_around.segment(padded(slab(), 3, 0, affine, "constant"), posteriors=True)
    probabilities = np.asarray(found.posteriors.dataobj)
    for channel, name in ((1, "grey"), (2, "white")):
        expected = probabilities[..., channel].sum()
        # Volumes are summed on the working grid, a voxel of which may lie across the face
        assert found.volumes_mm3[name] == pytest.approx(expected, rel=0.1)


def test_an_oblique_slab(looking_around):
    """Slices are repeated across the slab, wherever they point."""
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(0.3, -0.2, 0.1)
    data = slab()
    found = looking_around.segment(nb.Nifti1Image(data, affine))
    drawn_out = looking_around.segment(padded(data, 5, 5, affine, "edge"))
    labels = np.asarray(found.labels.dataobj)
    expected = np.asarray(drawn_out.labels.dataobj)[:, :, 5 : 5 + THICK]
    # Working grids differ by parts of a voxel, and this network tells noise apart
    middle = (slice(8, -8), slice(8, -8), slice(None))
    agreement = (labels == expected)[middle].mean()
    assert agreement > 0.6
    shares = [
        np.mean(part[middle] == expected[middle]) for part in (labels[:, :, ::-1], labels[::-1])
    ]
    assert agreement > max(shares) + 0.05


def test_a_whole_head_is_left_alone(looking_around):
    whole = np.zeros((40, 40, 40), np.float32)
    whole[4:-4, 4:-4, 4:-4] = 40 + 60 * np.random.default_rng(0).random((32, 32, 32))
    found = looking_around.segment(nb.Nifti1Image(whole, np.eye(4)))
    assert not [w for w in found.warnings if "shows only" in w]
    plain = looking_around.model.predict(torch.from_numpy(whole)).labels().numpy()
    expected = looking_around.model.scheme.to_indices(plain)
    np.testing.assert_array_equal(np.asarray(found.labels.dataobj), expected)


def test_training_repeats_slices_as_far_as_inference_does():
    assert SynthesisConfig().coverage_repeat_mm == REPEAT_MM
