"""Scans of a few slices, through the whole way from a file to labels."""

import math
from pathlib import Path

import attrs
import nibabel as nb
import numpy as np
import pytest
import torch
from nibabel.eulerangles import euler2mat

from l2s_pydra import load_model
from l2s_pydra.config import LearnConfig, preset
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.segmentation import Model, Segmenter
from l2s_pydra.steps.api import _volume
from l2s_pydra.steps.posterior import predict

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
    data = 60 + 40 * rng.random(SHAPE, dtype=np.float32)
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


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("black", [0, 3])
def test_volumes_are_of_the_slab_alone(looking_around, count, black):
    """Also where voxels of the working grid lie across its faces."""
    data = slab()[:, :, :count]
    affine = np.diag([5.0, 5, 5, 1] if count < 10 else [1.5, 1.5, 1.5, 1])
    final = looking_around.model.segmenter.unet.final
    with torch.no_grad():  # the same everywhere
        final.weight.zero_()
        final.bias[:] = torch.tensor([-9.0, 1, 2])
    found = looking_around.segment(padded(data, black, black, affine, "constant"))
    assert any("shows only" in w for w in found.warnings)
    whole = data.size * abs(np.linalg.det(affine))
    # In the plane, the box that is segmented may end a few voxels before the image
    assert sum(found.volumes_mm3.values()) == pytest.approx(whole, rel=0.03)
    ratio = found.volumes_mm3["white"] / found.volumes_mm3["grey"]
    assert ratio == pytest.approx(math.e, rel=0.01)


def test_maps_on_both_grids_end_at_the_faces(looking_around):
    affine = np.diag([1.5, 1.5, 1.5, 1])
    volume = _volume(padded(slab(), 6, 6, affine, "constant"), None, allow_2d=False)
    found = predict(looking_around.model, volume, torch.device("cpu"), weights=Path("w"))
    coverage = found.coverage
    assert (coverage.first, coverage.last) == (6, 19)
    for background in (found.frame(0), 1 - found.entropy()):
        np.testing.assert_allclose(background[:, :, [*range(6), *range(20, 26)]], 1, atol=1e-6)
        assert background[:, :, 6:20].mean() < 0.9
    faces = volume.affine[2, 3] + np.array([5.5, 19.5]) * 1.5  # mm
    z = found.conform.affine[2, 3] + np.arange(found.conform.shape[2])
    shown = found.working_channels().any((0, 1))
    assert z[shown].min() >= faces[0] - 0.5
    assert z[shown].max() <= faces[1] + 0.5
    assert shown[(z > faces[0] + 0.5) & (z < faces[1] - 0.5)].all()


def test_an_oblique_slab(looking_around):
    """Slices are repeated across the slab, wherever they point: to the voxel, on its own grid."""
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(0.3, -0.2, 0.1)
    data = slab()
    model, device = looking_around.model, torch.device("cpu")
    volume = _volume(nb.Nifti1Image(data, affine), None, allow_2d=False)
    found = predict(model, volume, device, weights=Path("w"))
    # The same by hand: what the network sees is the image with its outermost slices repeated
    longer = padded(data, 5, 5, affine, "edge")
    conform = found.conform
    margin = 12
    moved = conform.affine.copy()
    moved[:3, 3] -= margin * np.diag(moved)[:3]
    grid = attrs.evolve(
        conform,
        affine=moved,
        shape=tuple(n + 2 * margin for n in conform.shape),
        source_affine=longer.affine,
        source_shape=longer.shape,
    )
    shown = grid.image(np.asarray(longer.dataobj) - data.min())
    drawn_out = model.predict(torch.from_numpy(shown)).whole()
    expected = drawn_out[(slice(None), *[slice(margin, -margin)] * 3)]
    inner = torch.zeros(conform.shape, dtype=torch.bool)
    inner[found.posterior.box] = True
    inner &= torch.from_numpy(found.coverage.share(conform.affine, conform.shape)) == 1
    assert inner.sum() > 10_000
    difference = (found.posterior.whole() - expected).abs()[:, inner]
    # Boxes begin at other voxels, and so do the averages of the network's levels
    assert float(difference.median()) < 0.02


def test_a_slab_that_lies_turned_in_a_larger_grid(looking_around):
    """Nothing is labelled beyond its faces, and its volume is its own."""
    final = looking_around.model.segmenter.unet.final
    with torch.no_grad():  # the same everywhere
        final.weight.zero_()
        final.bias[:] = torch.tensor([-9.0, 1, 2])
    affine = np.eye(4)
    affine[:3, 3] = -35, -35, -25
    index = np.stack(np.meshgrid(*map(np.arange, (70, 70, 50)), indexing="ij"), -1)
    normal = euler2mat(0, 0.2, 0.25)[:, 2]
    world = index + affine[:3, 3]
    depth, wide = np.abs(world @ normal), np.linalg.norm(world, axis=-1)
    rng = np.random.default_rng(0)
    inside = (depth < 5) & (wide < 30)
    data = np.where(inside, 60 + 40 * rng.random(inside.shape), 0).astype(np.float32)
    found = looking_around.segment(nb.Nifti1Image(data, affine))
    assert any("shows only" in warning for warning in found.warnings)
    labels = np.asarray(found.labels.dataobj)
    assert not labels[depth > 7].any()
    assert (labels[inside & (depth < 4)] == 41).all()
    # In the plane this network labels black as well
    plane = sum(found.volumes_mm3.values()) / 10
    assert plane > 0.9 * np.pi * 30**2


def test_a_whole_head_is_left_alone(looking_around):
    whole = np.zeros((40, 40, 40), np.float32)
    whole[4:-4, 4:-4, 4:-4] = 40 + 60 * np.random.default_rng(0).random((32, 32, 32))
    found = looking_around.segment(nb.Nifti1Image(whole, np.eye(4)))
    assert not [w for w in found.warnings if "shows only" in w]
    plain = looking_around.model.predict(torch.from_numpy(whole)).labels().numpy()
    expected = looking_around.model.scheme.to_indices(plain)
    np.testing.assert_array_equal(np.asarray(found.labels.dataobj), expected)


@pytest.mark.parametrize(
    ("settings", "record", "slabs"),
    [
        ({}, {}, True),
        ({"synthesis__coverage_repeat_mm": 0.0}, {}, False),  # it was trained with black around
        ({"segmenter__ndim": 2}, {}, False),
        ({}, {"grid_shape": [40, 44, 26]}, False),  # it knows slabs of 26 mm
        ({}, {"grid_shape": [40, 44, 30]}, True),
    ],
)
def test_what_a_model_was_trained_on_decides(looking_around, settings, record, slabs):
    model = looking_around.model
    learn = model.learn_config.evolve(**settings).to_dict()
    segmenter = Segmenter(LearnConfig.from_dict(learn).segmenter, 3)
    changed = attrs.evolve(
        model, config={**model.config, "learn": learn, **record}, segmenter=segmenter
    )
    volume = _volume(nb.Nifti1Image(slab(), np.eye(4)), None, allow_2d=False)
    found = predict(changed, volume, torch.device("cpu"), weights=Path("w"))
    assert (found.coverage is not None) == slabs
