"""The working grid against scipy, nibabel and arithmetic."""

import itertools

import nibabel as nb
import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from nibabel.eulerangles import euler2mat
from nibabel.processing import resample_from_to

from l2s_pydra.errors import ImageError, ShapeError
from l2s_pydra.images import conform as module
from l2s_pydra.images import interpolation
from l2s_pydra.images.conform import Conform
from l2s_pydra.images.volume import Volume


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def volume(data, affine):
    return Volume(data=data, affine=np.asarray(affine, dtype=float), header=None, path="x.nii")


def oriented(axes, flips, spacing=(1, 1, 1), origin=(3, -4, 5)):
    """Affine whose source axis ``i`` runs along world axis ``axes[i]``."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for source, world in enumerate(axes):
        affine[world, source] = flips[source] * spacing[source]
    affine[:3, 3] = origin
    return affine


def oblique(rng, spacing=(1, 1, 1)):
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(*rng.uniform(-0.6, 0.6, 3)) * spacing
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


def smooth(rng, shape):
    return ndi.gaussian_filter(rng.random(shape), 1.5).astype(np.float32)


def softmax(rng, shape):
    raw = ndi.gaussian_filter(rng.standard_normal(shape), (0, 1, 1, 1))
    return torch.softmax(torch.from_numpy(raw * 20), 0).float().numpy()


ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
)


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_source_on_the_working_grid_passes_unchanged(rng, axes, flips):
    data = rng.random((5, 6, 7), dtype=np.float32)
    source = volume(data, oriented(axes, flips, (2, 2, 2)))
    conform = Conform.to_grid(source, 2)
    canonical = nb.as_closest_canonical(nb.Nifti1Image(data, source.affine))
    np.testing.assert_allclose(conform.affine, canonical.affine, atol=1e-12)
    np.testing.assert_array_equal(conform.image(source), canonical.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(conform.float_to_source(conform.image(source)), data)
    labels = rng.integers(0, 4, data.shape)
    there = conform.labels(labels)
    np.testing.assert_array_equal(
        conform.posterior_to_source(np.stack([there == k for k in range(4)])), labels
    )


@pytest.mark.parametrize("spacing", [1.3, 2.0])
@pytest.mark.parametrize("turn", ["parallel", "oblique"])
def test_upsampling_is_trilinear(rng, spacing, turn):
    sizes = (spacing * 1.01, spacing * 1.2, spacing * 1.7)
    affine = oriented((1, 2, 0), (1, -1, 1), sizes) if turn == "parallel" else oblique(rng, sizes)
    source = volume(rng.random((6, 7, 8), dtype=np.float32), affine)
    conform = Conform.to_grid(source, spacing)
    expected = resample_from_to(
        nb.Nifti1Image(source.data, affine), (conform.shape, conform.affine), order=1
    ).get_fdata()
    # Within the outermost centres; the outer half voxels are repeated here, faded by nibabel
    inner = (
        resample_from_to(
            nb.Nifti1Image(np.ones_like(source.data), affine),
            (conform.shape, conform.affine),
            order=1,
        ).get_fdata()
        > 0.999
    )
    assert inner.any()
    np.testing.assert_allclose(conform.image(source)[inner], expected[inner], atol=2e-5)


@pytest.mark.parametrize("turn", ["parallel", "oblique"])
def test_downsampling_is_gaussian_then_trilinear(rng, turn):
    affine = oriented((2, 0, 1), (-1, 1, 1)) if turn == "parallel" else oblique(rng)
    source = volume(rng.random((24, 26, 28), dtype=np.float32), affine)
    conform = Conform.to_grid(source, 3)
    # Full widths at half maximum of 1 and 3 voxels
    sigma = np.sqrt((3**2 - 1) / (8 * np.log(2)))
    blurred = ndi.gaussian_filter(source.data.astype(float), sigma, mode="nearest")
    points = np.stack(np.meshgrid(*map(np.arange, conform.shape), indexing="ij")).reshape(3, -1)
    to_source = np.linalg.inv(affine) @ conform.affine
    there = to_source[:3, :3] @ points + to_source[:3, 3:]
    expected = ndi.map_coordinates(blurred, there, order=1, mode="nearest")
    deep = np.all((there > 6) & (there < np.array([[23], [25], [27]]) - 6), axis=0)
    assert deep.sum() > 20
    # 4 sigma are kept by both
    np.testing.assert_allclose(conform.image(source).ravel()[deep], expected[deep], atol=1e-4)


def test_downsampling_keeps_the_mean_and_the_edges(rng):
    source = volume(np.full((30, 30, 30), 5, dtype=np.float32), np.eye(4))
    np.testing.assert_allclose(Conform.to_grid(source, 3).image(source), 5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_grid_covers_the_field_of_view(seed):
    rng = np.random.default_rng(seed)
    affine = oblique(rng, rng.uniform(0.5, 4, 3))
    shape = rng.integers(2, 20, 3)
    source = volume(np.zeros(shape, dtype=np.float32), affine)
    conform = Conform.to_grid(source, 1.7)
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in shape)))).T
    world = affine[:3, :3] @ corners + affine[:3, 3:]
    inverse = np.linalg.inv(conform.affine)
    voxels = inverse[:3, :3] @ world + inverse[:3, 3:]
    assert voxels.min() >= -0.5 - 2e-3
    assert (voxels.max(axis=1) <= np.array(conform.shape) - 0.5 + 2e-3).all()
    # and no more than needed
    assert (np.ptp(voxels, axis=1) > np.array(conform.shape) - 1 - 2e-3).all()
    np.testing.assert_allclose(conform.affine[:3, :3], np.eye(3) * 1.7)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("turn", ["parallel", "oblique"])
@pytest.mark.parametrize("block", [3, 48])
def test_posteriors_come_back_as_by_interpolating_all(seed, turn, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(0.7, 1.5, 3)
    axes = tuple(rng.permutation(3))
    affine = oriented(axes, (1, -1, 1), sizes) if turn == "parallel" else oblique(rng, sizes)
    source = volume(np.zeros((9, 10, 11), dtype=np.float32), affine)
    conform = Conform.to_grid(source, 2)
    posterior = softmax(rng, (6, *conform.shape))
    points = np.stack(np.meshgrid(*map(np.arange, source.shape), indexing="ij")).reshape(3, -1)
    to_work = np.linalg.inv(conform.affine) @ affine
    there = to_work[:3, :3] @ points + to_work[:3, 3:]
    full = np.stack([ndi.map_coordinates(p, there, order=1, mode="nearest") for p in posterior])
    labels = conform.posterior_to_source(posterior)
    assert labels.dtype == np.int16
    top = np.sort(full, axis=0)
    clear = top[-1] - top[-2] > 1e-4  # float32 may decide a draw either way
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(labels.ravel()[clear], full.argmax(axis=0)[clear])
    np.testing.assert_allclose(conform.float_to_source(posterior[1]).ravel(), full[1], atol=1e-5)


def test_few_contenders_change_nothing(rng, monkeypatch):
    source = volume(np.zeros((30, 31, 32), dtype=np.float32), np.eye(4))
    conform = Conform.to_grid(source, 2)
    posterior = np.full((9, *conform.shape), 1e-5, dtype=np.float32)
    posterior[0] = 1
    posterior[:, 4:9, 4:9, 4:9] = softmax(rng, (9, 5, 5, 5))
    monkeypatch.setattr(module, "_BLOCK", 8)
    pruned = conform.posterior_to_source(posterior)
    monkeypatch.setattr(module, "_contenders", lambda part: list(range(len(part))))
    np.testing.assert_array_equal(pruned, conform.posterior_to_source(posterior))
    assert len(np.unique(pruned)) > 6


@pytest.mark.parametrize("values", [np.zeros(4), np.full(4, 0.25), np.array([0, 0, 0, 1.0])])
def test_equal_posteriors_go_to_the_first(values):
    source = volume(np.zeros((5, 5, 5), dtype=np.float32), np.eye(4))
    conform = Conform.to_grid(source, 2)
    posterior = np.broadcast_to(values[:, None, None, None], (4, *conform.shape))
    assert (conform.posterior_to_source(posterior) == values.argmax()).all()


def test_tensor_and_half_precision(rng):
    source = volume(np.zeros((6, 6, 6), dtype=np.float32), np.eye(4))
    conform = Conform.to_grid(source, 2)
    posterior = softmax(rng, (3, *conform.shape))
    tensor = torch.from_numpy(posterior).requires_grad_()
    np.testing.assert_array_equal(
        conform.posterior_to_source(tensor), conform.posterior_to_source(posterior)
    )
    half = torch.from_numpy(posterior).bfloat16()
    np.testing.assert_array_equal(
        conform.posterior_to_source(half), conform.posterior_to_source(half.float().numpy())
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("turn", ["parallel", "oblique"])
def test_labels_are_those_of_the_nearest_voxel(seed, turn):
    rng = np.random.default_rng(seed)
    affine = oriented((1, 0, 2), (-1, 1, 1), (1.1, 0.9, 2)) if turn == "parallel" else oblique(rng)
    labels = rng.integers(1, 9, (9, 10, 11))
    conform = Conform.to_grid(volume(labels, affine), 1.7)
    expected = resample_from_to(
        nb.Nifti1Image(labels.astype(np.int32), affine),
        (conform.shape, conform.affine),
        order=0,
        mode="grid-constant",
        cval=0,
    ).get_fdata()
    found = conform.labels(labels)
    # Beyond half a voxel from the outermost centre both give 0
    assert (found == expected).mean() > 0.999
    assert found.dtype == labels.dtype


@pytest.mark.parametrize("turn", ["parallel", "oblique"])
def test_labels_survive_the_round_trip(rng, turn):
    affine = oriented((1, 2, 0), (1, -1, -1)) if turn == "parallel" else oblique(rng)
    x, y, z = np.ogrid[:30, :32, :34]
    labels = np.where((x - 15) ** 2 + (y - 16) ** 2 + (z - 17) ** 2 < 100, 1 + (x > 15), 0)
    conform = Conform.to_grid(volume(labels, affine), 1.0)
    there = conform.labels(labels)
    back = conform.posterior_to_source(np.stack([there == k for k in range(3)]))
    for label in (1, 2):
        dice = (
            2
            * ((labels == label) & (back == label)).sum()
            / ((labels == label).sum() + (back == label).sum())
        )
        # Parallel of equal spacing: exact; a rotation moves surfaces by a fraction of a voxel
        assert dice > (0.9999 if turn == "parallel" else 0.93)


def test_fixed_box(rng):
    source = volume(rng.random((20, 20, 20), dtype=np.float32) + 1, np.eye(4))
    conform = Conform.to_grid(source, 2, shape=(4, 5, 6), center_mm=(10, 9, 8))
    assert conform.shape == (4, 5, 6)
    middle = conform.affine @ [1.5, 2, 2.5, 1]
    np.testing.assert_allclose(middle[:3], (10, 9, 8))
    back = conform.posterior_to_source(np.stack([np.zeros(conform.shape), np.ones(conform.shape)]))
    # 4 x 2 mm about 10: voxel centres 6 to 14, halves included
    assert np.flatnonzero(back.any(axis=(1, 2))).tolist() == list(range(6, 15))
    assert np.flatnonzero(back.any(axis=(0, 1))).tolist() == list(range(2, 15))
    far = Conform.to_grid(source, 2, shape=(4, 4, 4), center_mm=(500, 0, 0))
    assert not far.image(source).any()
    assert not far.labels(np.ones((20, 20, 20), dtype=int)).any()
    assert not far.posterior_to_source(np.ones((2, 4, 4, 4))).any()
    assert not far.float_to_source(np.ones((4, 4, 4))).any()


def test_fixed_box_sits_on_the_field_of_view_by_default():
    source = volume(np.zeros((21, 11, 5), dtype=np.float32), oriented((0, 1, 2), (-1, 1, 1)))
    conform = Conform.to_grid(source, 1, shape=(3, 3, 3))
    np.testing.assert_allclose(conform.affine @ [1, 1, 1, 1], source.affine @ [10, 5, 2, 1])


def test_fine_grid_tiles_the_working_grid(rng):
    source = volume(rng.integers(0, 5, (12, 12, 12)), oriented((0, 1, 2), (-1, 1, 1)))
    conform = Conform.to_grid(source, 3, oversampling=3)
    assert conform.shape == (4, 4, 4)
    assert conform.fine_shape == (12, 12, 12)
    np.testing.assert_array_equal(conform.labels(source), source.data[::-1])
    # The centre of a working voxel is that of its 27 fine ones
    np.testing.assert_allclose(
        conform.fine_affine @ [4, 4, 4, 1], conform.affine @ [1, 1, 1, 1], atol=1e-12
    )
    assert conform.image(source.data.astype(np.float32)).shape == (4, 4, 4)


SLICES = [
    ((8, 9, 1), (0, 1, 2)),
    ((8, 9, 1), (1, 0, 2)),
    ((8, 1, 9), (0, 1, 2)),
    ((1, 8, 9), (0, 1, 2)),
    ((8, 9, 1), (0, 2, 1)),
]


@pytest.mark.parametrize(("shape", "axes"), SLICES)
@pytest.mark.parametrize("turn", [False, True])
def test_single_slices(rng, shape, axes, turn):
    affine = oriented(axes, (-1, 1, 1), (1, 1, 5) if shape[2] == 1 else (1, 1, 1))
    if turn:
        rotation = np.eye(4)
        rotation[:3, :3] = euler2mat(0.2, 0.1, -0.15)
        affine = rotation @ affine
    source = volume(rng.random(shape, dtype=np.float32), affine)
    conform = Conform.to_grid(source, 1, oversampling=2)
    assert conform.shape[2] == 1
    assert sorted(conform.shape) == sorted(shape)
    assert conform.fine_shape == (2 * conform.shape[0], 2 * conform.shape[1], 1)
    assert conform.fine_affine[:3, 2].tolist() == conform.affine[:3, 2].tolist()
    nearest = np.abs(conform.affine[:3, :3]).argmax(axis=0)
    assert nearest[0] < nearest[1]
    assert (conform.affine[nearest, range(3)] > 0).all()
    image = conform.image(source)
    np.testing.assert_array_equal(conform.float_to_source(image), source.data)
    assert np.linalg.det(conform.affine[:3, :3]) != 0
    coarse = Conform.to_grid(source, 2)
    assert coarse.shape == (*(-(-n // 2) for n in conform.shape[:2]), 1)
    assert coarse.image(source).min() > 0


def test_affines_of_single_precision_still_pass_unchanged(rng):
    data = rng.random((40, 40, 40), dtype=np.float32)
    affine = oriented((0, 1, 2), (-1, 1, 1), (1.0000001, 0.9999999, 1)).astype(np.float32)
    affine[0, 1] = 1e-7
    source = volume(data, affine)
    np.testing.assert_array_equal(Conform.to_grid(source, 1).image(source), data[::-1])


def test_column_major_arrays_give_the_same(rng):
    source = volume(rng.random((12, 13, 14), dtype=np.float32), oriented((2, 0, 1), (1, -1, 1)))
    conform = Conform.to_grid(source, 2.2)
    np.testing.assert_allclose(
        conform.image(np.asfortranarray(source.data)), conform.image(source), rtol=1e-6
    )
    assert conform.image(source).flags.c_contiguous


def test_one_oblique_call_in_slabs_equals_one_piece(rng, monkeypatch):
    source = volume(rng.random((12, 13, 14), dtype=np.float32), oblique(rng))
    conform = Conform.to_grid(source, 1)
    whole = conform.image(source)
    monkeypatch.setattr(interpolation, "_SLAB_VOXELS", 700)
    np.testing.assert_allclose(conform.image(source), whole, atol=1e-6)


def test_wrong_shapes(rng):
    source = volume(rng.random((6, 6, 6), dtype=np.float32), np.eye(4))
    conform = Conform.to_grid(source, 2)
    for call in (conform.image, conform.labels):
        with pytest.raises(ShapeError, match="source grid"):
            call(np.zeros((6, 6, 5)))
    for wrong in (np.zeros((2, 6, 6, 6)), np.zeros((0, 3, 3, 3))):
        with pytest.raises(ShapeError, match="working grid"):
            conform.posterior_to_source(wrong)
    with pytest.raises(ShapeError, match="working grid"):
        conform.float_to_source(np.zeros((6, 6, 6)))


def test_grid_beyond_memory():
    source = volume(np.zeros((1000, 1000, 1000), dtype=bool), np.eye(4))
    with pytest.raises(ImageError, match=r"x\.nii: .*crop"):
        Conform.to_grid(source, 0.5)
