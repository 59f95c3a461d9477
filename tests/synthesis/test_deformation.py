"""Warps against SciPy, closed forms and the Jacobian."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates

from l2s_pydra.config import SynthesisConfig
from l2s_pydra.synthesis import GenerationLabels, Synthesizer, deformation
from l2s_pydra.synthesis.deformation import (
    FOLDING_BOUND,
    affine_matrix,
    along_axis,
    bspline_matrix,
    control_shape,
    dense_field,
    gather_labels,
    node_positions,
    sample_image,
    slabs,
    upsample,
)

SHAPES = [(30, 41), (18, 25, 21)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def neutral(shape, spacing=10.0):
    """Identity affine and no displacement."""
    ndim = len(shape)
    nodes = control_shape(shape, spacing)
    return torch.eye(ndim), torch.zeros(ndim), torch.zeros(ndim, *nodes)


def identity(shape):
    axes = [torch.arange(float(n)) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


@pytest.mark.parametrize(("n", "nodes"), [(1, 4), (2, 4), (33, 4), (50, 9), (7, 20)])
def test_bspline_matrix_is_that_of_scipy(n, nodes):
    h = max(n - 1, 1) / (nodes - 3)
    # Node i sits at (i - 1) h and is the middle of five knots; the last voxel belongs to the end.
    knots = (np.arange(nodes + 4) - 3) * h
    expected = np.stack(
        [
            BSpline(knots, coefficients, 3, extrapolate=True)(np.arange(n))
            for coefficients in np.eye(nodes)
        ],
        axis=1,
    )
    np.testing.assert_allclose(bspline_matrix(n, nodes), expected, atol=1e-6)


@pytest.mark.parametrize(("n", "nodes"), [(1, 4), (33, 4), (50, 9), (7, 20)])
def test_bspline_matrix_reproduces_linear_functions(n, nodes):
    matrix = bspline_matrix(n, nodes).double()
    torch.testing.assert_close(matrix.sum(1), torch.ones(n).double())
    coefficients = 3 - 0.7 * node_positions(n, nodes).double()
    expected = 3 - 0.7 * torch.arange(n).double()
    # The matrix is float32; coordinates are up to 50.
    torch.testing.assert_close(matrix @ coefficients, expected, atol=2e-5, rtol=0)


def test_control_points_cover_the_grid():
    for n, spacing in [(101, 25.0), (100, 25.0), (5, 25.0), (1, 25.0), (64, 3.5)]:
        (nodes,) = control_shape((n,), spacing)
        positions = node_positions(n, nodes)
        assert positions[1] == 0
        assert float(positions[-2]) == pytest.approx(max(n - 1, 1))
        assert float(positions[1] - positions[0]) <= spacing or n == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_upsampling_is_the_sum_over_all_control_points(shape, rng):
    nodes = control_shape(shape, 12.0)
    control = torch.tensor(rng.standard_normal((2, *nodes)), dtype=torch.float32)
    bases = [bspline_matrix(n, k) for n, k in zip(shape, nodes, strict=True)]
    letters = "ai,bj,dk"[: 3 * len(shape) - 1]
    inputs = "".join(letters[3 * i + 1] for i in range(len(shape)))
    outputs = "".join(letters[3 * i] for i in range(len(shape)))
    expected = torch.einsum(f"c{inputs},{letters}->c{outputs}", control, *bases)
    torch.testing.assert_close(upsample(control, shape), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_slabs_are_pieces_of_the_upsampled_tensor(shape, flip, rng, monkeypatch):
    monkeypatch.setattr(deformation, "_SLAB", 7 * math.prod(shape[1:]))
    control = torch.tensor(rng.standard_normal((2, *control_shape(shape, 12.0)))).float()
    window = [slice(2, n - 1) for n in shape]
    expected = upsample(control, shape, window)
    expected = expected.flip(1) if flip else expected
    pieces = list(slabs(control, shape, window, flip=flip))
    assert len(pieces) > 1
    for rows, values in pieces:
        torch.testing.assert_close(values, expected[:, rows], atol=1e-5, rtol=1e-5)
    assert [row for rows, _ in pieces for row in range(shape[0] - 3)[rows]] == list(
        range(shape[0] - 3)
    )


def test_along_axis_is_a_product_per_line(rng):
    x = torch.tensor(rng.standard_normal((3, 4, 5)))
    matrix = torch.tensor(rng.standard_normal((6, 4)))
    expected = torch.einsum("mn,anb->amb", matrix, x)
    torch.testing.assert_close(along_axis(matrix, x, 1), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_deformation_is_the_identity(shape):
    field = dense_field(*neutral(shape), shape)
    torch.testing.assert_close(field, identity(shape), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_goes_about_the_centre(shape, rng):
    ndim = len(shape)
    _, _, still = neutral(shape)
    matrix = torch.tensor(np.eye(ndim) + 0.2 * rng.standard_normal((ndim, ndim)))
    shift = torch.tensor(rng.uniform(-4, 4, ndim))
    center = (torch.tensor(shape).double() - 1) / 2
    points = torch.movedim(identity(shape).double(), 0, -1)
    expected = torch.movedim((points - center) @ matrix.T + center + shift, -1, 0)
    field = dense_field(matrix.float(), shift.float(), still, shape)
    torch.testing.assert_close(field.double(), expected, atol=1e-4, rtol=0)


def test_affine_matrix_in_closed_form():
    a, (u, v), k = 0.3, (1.2, 0.8), 0.1
    rotation = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    expected = rotation @ np.diag([u, v]) @ [[1, k], [0, 1]]
    np.testing.assert_allclose(affine_matrix([a], [u, v], [k]), expected, atol=1e-6)


def test_affine_matrix_of_pure_rotations_is_orthogonal():
    matrix = affine_matrix([0.3, -0.2, 0.5], [1, 1, 1], [0, 0, 0]).double()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3).double(), atol=1e-6, rtol=0)
    assert float(torch.linalg.det(matrix)) == pytest.approx(1, abs=1e-6)
    stretched = affine_matrix([0.3, -0.2, 0.5], [1.5, 0.5, 2], [0.1, 0.2, 0.3]).double()
    assert float(torch.linalg.det(stretched)) == pytest.approx(1.5, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_displacements_add_up(shape, rng):
    matrix, shift, still = neutral(shape)
    bump = torch.tensor(rng.standard_normal(still.shape), dtype=torch.float32)
    field = dense_field(matrix, shift, bump, shape)
    torch.testing.assert_close(field - identity(shape), upsample(bump, shape), atol=1e-4, rtol=0)


def synthesizer(shape, **settings):
    half = torch.zeros(shape, dtype=torch.uint8)
    half[: shape[0] // 2] = 1
    labels = GenerationLabels(
        group=torch.tensor([0, 1], dtype=torch.uint8),
        channel=torch.tensor([0, 1]),
        group_names=("outside", "inside"),
        swap=torch.tensor([0, 1], dtype=torch.uint8),
        n_channels=2,
    )
    return Synthesizer(
        label_maps=[half],
        labels=labels,
        config=SynthesisConfig(**{"oversampling": 1, **settings}),
        spacing_mm=1.0,
    )


LARGEST = {
    "rotation_deg": 45.0,
    "scaling": 0.4,
    "shearing": 0.1,
    "nonlinear_std_mm": 100.0,
    "nonlinear_spacing_mm": 9.0,
    "flip": 0.0,
}


def jacobian(field):
    """Determinants of the forward differences of a field: (*S - 1,)."""
    ndim = len(field)
    columns = []
    for axis in range(1, ndim + 1):
        inner = [slice(0, -1)] * (ndim + 1)
        inner[0] = inner[axis] = slice(None)
        columns.append(field.diff(dim=axis)[tuple(inner)])
    return torch.linalg.det(torch.stack(columns).movedim((0, 1), (-1, -2)))


@pytest.mark.parametrize("shape", SHAPES)
def test_deformations_never_fold(shape):
    generator = synthesizer(shape, **LARGEST)
    largest = 0.0
    for seed in range(60):
        draw = generator.draw(seed)
        determinant = jacobian(generator.field(draw).double())
        assert float(determinant.min()) > 0, seed
        largest = max(largest, float(draw.displacement.abs().max()))
    # The draws did reach the bound: 0.4 of the distance of the control points.
    nodes = control_shape(shape, 9.0)
    bound = 0.4 * min((n - 1) / (k - 3) for n, k in zip(shape, nodes, strict=True))
    assert largest == pytest.approx(bound)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_not_even_the_worst_displacement_folds(ndim, scale):
    n, nodes = 49, 7
    basis = bspline_matrix(n, nodes).double()
    slope = (basis[25] - basis[23]) / 2
    # At one voxel, push every control point against its share in the divergence.
    divergence = torch.zeros([nodes] * ndim, dtype=torch.float64)
    for axis in range(ndim):
        term = torch.ones((), dtype=torch.float64)
        for other in range(ndim):
            term = term[..., None] * (slope if other == axis else basis[24])
        divergence += term
    bound = FOLDING_BOUND * (n - 1) / (nodes - 3)
    displacement = (-bound * divergence.sign()).float().expand(ndim, *divergence.shape)
    field = dense_field(scale * torch.eye(ndim), torch.zeros(ndim), displacement, [n] * ndim)
    assert float(jacobian(field).min()) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_flip_mirrors_the_first_axis(shape):
    generator = synthesizer(shape, flip=1.0)
    draw = generator.draw(3)
    assert draw.flip
    straight = dense_field(draw.matrix, draw.translation, draw.displacement, shape)
    torch.testing.assert_close(generator.field(draw), straight.flip(1), rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_gathered_labels_are_those_of_scipy(shape, dtype, rng):
    labels = rng.integers(0, 200, shape)
    target = [n + 3 for n in shape]
    field = rng.uniform(-4, max(shape) + 4, (len(shape), *target)).astype(np.float32)
    # Ties between two voxels, where rounding is a matter of taste, are left out.
    field[np.abs(field % 1 - 0.5) < 1e-3] += 0.1
    expected = map_coordinates(labels, field, order=0, mode="constant")
    found = gather_labels(torch.tensor(labels, dtype=dtype), torch.tensor(field))
    assert found.dtype == dtype
    # SciPy gives 0 as soon as a coordinate leaves the voxel centres, ours half a voxel later.
    inside = np.all([(c >= 0) & (c <= n - 1) for c, n in zip(field, shape, strict=True)], axis=0)
    beyond = np.any([(c < -0.5) | (c > n - 0.5) for c, n in zip(field, shape, strict=True)], axis=0)
    np.testing.assert_array_equal(found.numpy()[inside], expected[inside])
    assert not found.numpy()[beyond].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_sampled_images_are_those_of_scipy(shape, rng):
    image = rng.standard_normal(shape).astype(np.float32)
    field = rng.uniform(0, np.array(shape) - 1.001, (9, *[4] * (len(shape) - 1), len(shape)))
    field = np.moveaxis(field, -1, 0).astype(np.float32)
    expected = map_coordinates(image, field, order=1)
    found = sample_image(torch.tensor(image), torch.tensor(field))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not sample_image(torch.tensor(image), torch.tensor(field - 100)).any()
