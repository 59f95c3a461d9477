"""Blobs against volumes, spherical harmonics of SciPy, and evaluation on the whole grid."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from l2s_pydra.errors import ConfigError, ShapeError
from l2s_pydra.synthesis.lesions import _directions, _harmonics, blobs, eligible_centers


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def one(shape, center, radius, coefficients=(), **options):
    return blobs(
        shape, torch.tensor([center]), torch.tensor([radius]), torch.tensor([coefficients]),
        **options,
    )  # fmt: skip


def volume(radius, ndim, edge=1):
    """Of a disk or ball whose border is an even ramp: the moments of its width count."""
    if ndim == 2:
        return math.pi * (radius**2 + edge**2 / 12)
    return 4 / 3 * math.pi * (radius**3 + radius * edge**2 / 4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_harmonics_are_orthonormal_and_of_mean_zero(ndim):
    basis = torch.stack(_harmonics(_directions(ndim).unbind(1), 12))
    gram = basis @ basis.T / basis.shape[1]
    # Means over the lattice; exact on the circle.
    torch.testing.assert_close(gram, torch.eye(12).double(), atol=2e-3, rtol=0)
    assert float(basis.mean(1).abs().max()) < 1e-3


def test_harmonics_span_those_of_scipy():
    x, y, z = directions = _directions(3).unbind(1)
    polar, azimuth = np.arccos(z.numpy()), np.arctan2(y.numpy(), x.numpy())
    for order, rows in ((2, slice(0, 5)), (3, slice(5, 12))):
        ours = torch.stack(_harmonics(directions, 12))[rows].numpy().T
        for m in range(order + 1):
            legendre = special.lpmv(m, order, np.cos(polar))
            for theirs in (legendre * np.cos(m * azimuth), legendre * np.sin(m * azimuth)):
                fit = ours @ np.linalg.lstsq(ours, theirs, rcond=None)[0]
                np.testing.assert_allclose(fit, theirs, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("radius", [2.5, 7.0])
def test_smooth_blobs_are_disks_and_balls(ndim, radius):
    center = [15.3, 14.8, 16.1][:ndim]
    found = one([32, 30, 31][:ndim], center, radius)
    assert found.dtype == torch.float32
    assert float(found.sum()) == pytest.approx(volume(radius, ndim), rel=0.02)
    np.testing.assert_allclose(ndimage.center_of_mass(found.numpy()), center, atol=0.02)
    axes = np.meshgrid(*(np.arange(n) for n in found.shape), indexing="ij")
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, center, strict=True)))
    assert (found.numpy()[distance < radius - 0.51] == 1).all()
    assert (found.numpy()[distance > radius + 0.51] == 0).all()
    inside = np.clip(radius - distance + 0.5, 0, 1)
    np.testing.assert_allclose(found, inside, atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_rough_blobs_keep_their_volume_and_fit_in_their_boxes(ndim, seed):
    generator = torch.Generator().manual_seed(seed)
    coefficients = (0.25 * torch.randn(12 if ndim == 3 else 7, generator=generator)).tolist()
    shape, center, radius = [90, 94, 92][:ndim], [44.4, 46.0, 45.7][:ndim], 8.0
    found = one(shape, center, radius, coefficients)
    assert float(found.sum()) == pytest.approx(volume(radius, ndim), rel=0.02)
    # The radius in each voxel's direction, on the whole grid.
    axes = [torch.arange(n).double() - c for n, c in zip(shape, center, strict=True)]
    offset = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    distance = offset.norm(dim=0).clamp_min(1e-6)
    harmonics = _harmonics((offset / distance).unbind(), len(coefficients))
    outline = sum(a * h for a, h in zip(coefficients, harmonics, strict=True)).exp()
    lattice = _harmonics(_directions(ndim).unbind(1), len(coefficients))
    mean = sum(a * h for a, h in zip(coefficients, lattice, strict=True)).exp().pow(ndim).mean()
    inside = (radius * outline / mean ** (1 / ndim) - distance + 0.5).clamp(0, 1)
    torch.testing.assert_close(found, inside.float(), atol=1e-4, rtol=0)
    round_one = one(shape, center, radius)
    assert float((found - round_one).abs().sum()) > 0.1 * volume(radius, ndim)
    _, parts = ndimage.label(found.numpy() > 0.5)
    assert parts == 1


def test_edges_can_be_wide():
    found = one([40, 40], [20.0, 20.0], 8.0, edge=6.0)
    profile = found[20, 20:].numpy()
    assert (np.diff(profile) <= 0).all()
    assert profile[8] == pytest.approx(0.5)
    assert ((profile > 0.01) & (profile < 0.99)).sum() >= 4


def test_overlapping_blobs_are_a_union():
    centers, radii = torch.tensor([[10.0, 10.0], [13.0, 12.0]]), torch.tensor([4.0, 5.0])
    coefficients = torch.tensor([[0.1, 0.2], [-0.1, 0.0]])
    both = blobs((24, 25), centers, radii, coefficients)
    each = [
        blobs((24, 25), *(p[i : i + 1] for p in (centers, radii, coefficients))) for i in (0, 1)
    ]
    torch.testing.assert_close(both, torch.maximum(*each))


def test_blobs_end_at_the_border():
    inside = one([30, 30, 30], [15.0, 15.0, 15.0], 5.0, [0.2, -0.2])
    cut = one([20, 15, 30], [5.0, 0.0, 15.0], 5.0, [0.2, -0.2])
    torch.testing.assert_close(cut, inside[10:, 15:])
    assert not one([10, 10], [-50.0, 5.0], 3.0).any()
    none = blobs((5, 6), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 4))
    torch.testing.assert_close(none, torch.zeros(5, 6))


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 8)])
def test_centres_are_those_of_a_scan(shape, rng):
    mask = rng.random(shape) < 0.3
    places = np.argwhere(mask)
    shares = [0.0, 0.25, 0.5, 0.999999999]
    found = eligible_centers(torch.tensor(mask), torch.tensor(shares, dtype=torch.float64))
    expected = places[[int(share * len(places)) for share in shares]]
    np.testing.assert_array_equal(found, expected)


def test_centres_of_even_shares_are_all_voxels_once(rng):
    mask = torch.tensor(rng.random((6, 7)) < 0.5)
    count = int(mask.sum())
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    assert torch.equal(eligible_centers(mask, shares), mask.nonzero())


def test_largest_float_below_one_is_the_last_voxel():
    mask = torch.ones(200, 200, dtype=torch.bool)
    share = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    assert eligible_centers(mask, share[None]).tolist() == [[199, 199]]


def test_an_empty_mask_has_no_centres():
    found = eligible_centers(torch.zeros(4, 5, 6, dtype=torch.bool), torch.tensor([0.1, 0.9]))
    assert found.shape == (0, 3)
    assert eligible_centers(torch.ones(4, 5, dtype=torch.bool), torch.zeros(0)).shape == (0, 2)


def test_bad_arguments_are_refused():
    two, radii, none = torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 0)
    with pytest.raises(ShapeError, match="2 or 3 axes, not 1"):
        blobs((5,), two[:, :1], radii, none)
    with pytest.raises(ShapeError, match=r"need \(N,\) radii and \(N, 2\) centres"):
        blobs((5, 5), two, radii, none)
    with pytest.raises(ShapeError, match=r"need \(N, K\) coefficients"):
        blobs((5, 5, 5), two, radii, none[:1])
    with pytest.raises(ShapeError, match="at most 12 coefficients, not 13"):
        blobs((5, 5, 5), two, radii, torch.zeros(2, 13))
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="must be positive"):
            blobs((5, 5, 5), two, torch.tensor([1.0, bad]), none)
    with pytest.raises(ConfigError, match="must be positive"):
        blobs((5, 5, 5), two, radii, none, edge=0)
    for bad in (-0.1, 1.0, math.nan):
        with pytest.raises(ConfigError, match="at least 0 and below 1"):
            eligible_centers(torch.ones(3, 3, dtype=torch.bool), torch.tensor([bad]))
    with pytest.raises(ShapeError, match="must be a list"):
        eligible_centers(torch.ones(3, 3, dtype=torch.bool), torch.zeros(1, 1))
