"""Noise against its statistics; ghosts and movements against full transforms of NumPy and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from l2s_pydra.errors import ConfigError, ShapeError
from l2s_pydra.synthesis.artefacts import ghosts, motion, rician

SHAPES = [(20, 17), (9, 16, 12)]
NOTHING = torch.zeros(0), torch.zeros(0, 1), torch.zeros(0, 2)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=SHAPES, ids=["2d", "3d"])
def image(request, rng):
    """Two channels, smooth, positive, not zero at the border."""
    x = np.stack([gaussian_filter(rng.random(request.param), 1.5) for _ in range(2)])
    return torch.tensor(x / x.max())


def movements(ndim, count, rng):
    turns = rng.uniform(-0.2, 0.2, (count, 1 if ndim == 2 else 3))
    return torch.tensor(turns), torch.tensor(rng.uniform(-2, 2, (count, ndim)))


def test_rician_is_the_magnitude_of_a_complex_number(rng):
    x, real, imaginary = rng.standard_normal((3, 2, 5, 6))
    found = rician(*map(torch.tensor, (x, 0.3, real, imaginary)))
    np.testing.assert_allclose(found, np.abs(x + 0.3 * (real + 1j * imaginary)))
    std = torch.tensor([0.1, 0.5]).view(2, 1, 1)
    both = rician(*map(torch.tensor, (x,)), std, torch.tensor(real), torch.tensor(imaginary))
    first = rician(torch.tensor(x[:1]), 0.1, torch.tensor(real[:1]), torch.tensor(imaginary[:1]))
    torch.testing.assert_close(both[:1], first, atol=1e-7, rtol=0)  # std is in float32


@pytest.mark.parametrize("signal", [0.0, 0.05, 0.4])
def test_rician_has_the_moments_of_rice(signal):
    sigma, count = 0.1, 200_000
    generator = torch.Generator().manual_seed(0)
    real, imaginary = torch.randn(2, 1, count, generator=generator)
    found = rician(torch.full((1, count), signal), sigma, real, imaginary)
    # Standard errors are below sigma / sqrt(count).
    error = 5 * sigma / count**0.5
    assert float(found.square().mean()) == pytest.approx(signal**2 + 2 * sigma**2, abs=error)
    if signal == 0:
        assert float(found.mean()) == pytest.approx(sigma * math.sqrt(math.pi / 2), abs=error)
    if signal == 0.4:
        assert float(found.mean()) == pytest.approx(signal + sigma**2 / (2 * signal), abs=0.001)


def test_rician_noise_is_unchanged_and_has_a_gradient_where_all_is_zero():
    x = torch.tensor([[0.0, 0.5, -0.4]], requires_grad=True)
    noise = torch.tensor([[0.0, 0.0, 1.0]])
    found = rician(x, 0.1, noise, noise)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([[0, 1, -0.3 / 0.1**0.5]]))
    torch.testing.assert_close(found.detach(), rician(x.detach(), 0.1, noise, noise))
    assert noise.tolist() == [[0, 0, 1]]


def test_gradient_of_rician(rng):
    x, real, imaginary = (torch.tensor(a) for a in rng.standard_normal((3, 1, 3, 4)))
    std = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, s: rician(a, s, real, imaginary), (x.requires_grad_(), std)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_ghosts_are_a_modulation_of_full_k_space(image, count):
    for axis in range(image.ndim - 1):
        n = image.shape[axis + 1]
        line = np.round(np.fft.fftfreq(n) * n).astype(int)
        weight = np.where((line % (count + 1) == 0) & (line != 0), 1 - 0.7, 1)
        axes = tuple(range(1, image.ndim))
        k_space = np.fft.fftn(image.numpy(), axes=axes)
        view = [-1 if a == axis else 1 for a in range(image.ndim - 1)]
        expected = np.fft.ifftn(k_space * weight.reshape(1, *view), axes=axes)
        assert np.abs(expected.imag).max() < 1e-12
        np.testing.assert_allclose(
            ghosts(image, axis, count, 0.7), np.abs(expected), rtol=1e-7, atol=1e-7
        )


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_ghosts_are_as_many_as_said_and_evenly_apart(count):
    x = torch.zeros(1, 60, 3)
    x[0, 20] = 1
    profile = ghosts(x, 0, count, 0.6)[0, :, 1]
    # Beside the copies there is only what keeps the mean: 0.6 / 60.
    peaks = {int(i) for i in (profile > 0.05).nonzero()}
    assert peaks == {(20 + k * 60 // (count + 1)) % 60 for k in range(count + 1)}


def test_ghosts_keep_the_mean_along_the_axis(rng):
    x = torch.tensor(2 + 0.1 * rng.standard_normal((1, 24, 30)))
    found = ghosts(x, 1, 4, 1.0)
    torch.testing.assert_close(found.mean(2), x.mean(2))
    assert not torch.allclose(found, x, atol=1e-2)


def test_no_strength_no_ghosts(image):
    torch.testing.assert_close(ghosts(image - 0.5, 1, 2, 0.0), (image - 0.5).abs())


def by_hand(x, times, rotations, translations, axis):
    """Full transforms; each position sampled by SciPy; the centre of k-space decides where."""
    ndim, n = x.ndim - 1, x.shape[axis + 1]
    axes = tuple(range(1, x.ndim))
    center = (np.array(x.shape[1:]) - 1) / 2
    positions = [(np.eye(ndim), np.zeros(ndim))]
    for angles, shift in zip(rotations, translations, strict=True):
        if ndim == 3:
            matrix = np.eye(3)
            # About axes 0 and 2 as usual; about axis 1 from axis 0 towards axis 2.
            for name, angle in zip("xyz", angles * [1, -1, 1], strict=True):
                matrix = matrix @ Rotation.from_euler(name, angle).as_matrix()
        else:
            (a,) = angles
            matrix = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        positions.append((matrix, shift))
    when = np.arange(n) / n
    state = np.searchsorted(times, when, side="right")
    reference, offset = positions[state[n // 2]]
    k_space = np.zeros(x.shape, complex)
    for line in range(n):
        matrix, shift = positions[state[line]]
        # Head to its central position, then out of it: p = M (R^-1 (q - o)) + s.
        turn = matrix @ np.linalg.inv(reference)
        move = shift - turn @ offset
        back = np.linalg.inv(turn)
        source = center - back @ (center + move)
        if state[line] == state[n // 2]:
            moved = x
        else:
            moved = np.stack(
                [affine_transform(c, back, source, order=1, mode="nearest") for c in x]
            )
        shifted = np.fft.fftshift(np.fft.fftn(moved, axes=axes), axes=axis + 1)
        index = [slice(None)] * x.ndim
        index[axis + 1] = line
        k_space[tuple(index)] = shifted[tuple(index)]
    return np.abs(np.fft.ifftn(np.fft.ifftshift(k_space, axes=axis + 1), axes=axes))


@pytest.mark.parametrize(
    "times", [[0.72], [0.22], [0.11, 0.44, 0.83], [0.31, 0.31, 0.49], [0.0, 1.0]]
)
def test_movements_are_those_of_full_k_space(image, times, rng):
    turns, shifts = movements(image.ndim - 1, len(times), rng)
    for axis in range(image.ndim - 1):
        expected = by_hand(image.numpy(), times, turns.numpy(), shifts.numpy(), axis)
        found = motion(image, torch.tensor(times).double(), turns, shifts, axis)
        # Rotations are computed in float32.
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_moved_images_do_not_depend_on_how_many_voxels_are_held(image, rng, monkeypatch):
    turns, shifts = movements(image.ndim - 1, 1, rng)
    whole = motion(image, torch.tensor([0.6]), turns, shifts, 0)
    monkeypatch.setattr("l2s_pydra.synthesis.artefacts._SLAB", 1)
    torch.testing.assert_close(motion(image, torch.tensor([0.6]), turns, shifts, 0), whole)


def test_nothing_moves_nothing_changes(image, rng):
    ndim = image.ndim - 1
    turns, shifts = movements(ndim, 2, rng)
    times = torch.tensor([0.25, 0.75])
    torch.testing.assert_close(motion(image, times, 0 * turns, 0 * shifts, 0), image)
    # A movement before all lines, or after them, has no effect either.
    torch.testing.assert_close(motion(image, 0 * times, turns, shifts, 0), image)
    torch.testing.assert_close(motion(image, 0 * times + 1, turns, shifts, 0), image)
    empty = torch.zeros(0), turns[:0], shifts[:0]
    torch.testing.assert_close(motion(image, *empty, 0), image)


@pytest.mark.parametrize("time", [0.2, 0.45, 0.55, 0.8])
def test_head_stays_where_its_labels_are(time):
    """However early the movement, the image is not displaced as the head is."""
    axes = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    inside = ((axes[0] - 24) ** 2 + (axes[1] - 22) ** 2 < 150).float()
    x = torch.tensor(gaussian_filter(inside, 1.0))[None]
    found = motion(x, torch.tensor([time]), torch.zeros(1, 1), torch.tensor([[0.0, 6.0]]), 0)
    displacements = range(-8, 9)
    overlap = [float((found[0] * x[0].roll(d, 1)).sum()) for d in displacements]
    assert displacements[int(np.argmax(overlap))] == 0
    assert not torch.allclose(found, x, atol=2e-3)


def test_gradient_of_motion_and_ghosts(rng):
    x = torch.tensor(1 + rng.random((1, 5, 6)), requires_grad=True)
    turns, shifts = movements(2, 2, rng)
    times = torch.tensor([0.3, 0.7])
    for axis in range(2):
        assert torch.autograd.gradcheck(
            lambda a, k=axis: motion(a, times, turns, shifts, k), (x,), eps=1e-5
        )
        assert torch.autograd.gradcheck(lambda a, k=axis: ghosts(a, k, 2, 0.4), (x,))


def test_gradient_of_motion_is_finite_in_black(rng):
    x = torch.zeros(1, 8, 8, requires_grad=True)
    turns, shifts = movements(2, 1, rng)
    found = motion(x, torch.tensor([0.6]), turns, shifts, 0)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.isfinite(gradient).all()
    assert not found.detach().any()


def test_stays_on_the_device_of_the_image(image, rng):
    """Tensors without data refuse to meet those of another device."""
    x = image.to("meta")
    turns, shifts = movements(image.ndim - 1, 1, rng)
    assert rician(x, 0.1, x, x).device == x.device
    for axis in range(image.ndim - 1):
        assert ghosts(x, axis, 2, 0.4).device == x.device
        assert motion(x, torch.tensor([0.4]), turns, shifts, axis).device == x.device


def test_bad_arguments_are_refused():
    x = torch.zeros(1, 6, 6)
    with pytest.raises(ShapeError, match="needs noise of its shape"):
        rician(x, 0.1, x, x[0])
    with pytest.raises(ConfigError, match="has no axis 2"):
        ghosts(x, 2, 1, 0.1)
    with pytest.raises(ConfigError, match="has no axis -1"):
        motion(x, *NOTHING, -1)
    with pytest.raises(ConfigError, match="number of ghosts must be at least 1"):
        ghosts(x, 0, 0, 0.1)
    with pytest.raises(ConfigError, match="strength of ghosts must be from 0 to 1"):
        ghosts(x, 0, 1, 1.1)
    two = torch.zeros(2, 1), torch.zeros(2, 2)
    for times in ([0.5, 0.4], [-0.1, 0.4], [0.1, 1.1], [0.1, math.nan]):
        with pytest.raises(ConfigError, match="in order and from 0 to 1"):
            motion(x, torch.tensor(times), *two, 0)
    with pytest.raises(ShapeError, match=r"2 movements in 2-D need .* \(2, 1\) and \(2, 2\)"):
        motion(x, torch.tensor([0.1, 0.2]), two[0], two[1][:1], 0)
    with pytest.raises(ShapeError, match="must be a list"):
        motion(x, torch.zeros(2, 1), *two, 0)
