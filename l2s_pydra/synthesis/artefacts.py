r"""Artefacts of the acquisition: Rician noise, ghosts, and movements between the lines of k-space.

A Cartesian acquisition fills k-space line by line. What differs between lines, differs along one
axis only, and along the others the transform and its inverse cancel: one-dimensional transforms
along that axis are all that is needed.

Axes are counted without the channels: axis 0 is the first of space.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .deformation import affine_matrix, along_axis

__all__ = ["ghosts", "motion", "rician"]

_SLAB = 2**19
"""Voxels whose coordinates are held at a time."""


def rician(x: Tensor, std: Tensor | float, noise: Tensor, quadrature: Tensor) -> Tensor:
    r"""Magnitude of a signal with noise in its real and its imaginary part.

    .. math:: \tilde x = |x + \sigma n + i \sigma n'|

    Parameters
    ----------
    x : (C, \*S) tensor
        Signal.
    std : tensor that broadcasts with x, or float
        :math:`\sigma`, not negative; 0 gives the signal's magnitude.
    noise, quadrature : (C, \*S) tensors
        :math:`n` and :math:`n'`, standard normal. Unchanged.

    Returns
    -------
    (C, \*S) tensor
        Differentiable in ``x`` and ``std``; where signal and noise are 0 the derivative is 0.

    Raises
    ------
    ShapeError
        If signal and noise differ in shape.

    References
    ----------
    Gudbjartsson and Patz, Magnetic Resonance in Medicine 1995.
    """
    if not x.shape == noise.shape == quadrature.shape:
        raise ShapeError(
            f"the signal {tuple(x.shape)} needs noise of its shape, not {tuple(noise.shape)} and "
            f"{tuple(quadrature.shape)}"
        )
    std = torch.as_tensor(std, dtype=x.dtype, device=x.device)
    return _magnitude(torch.addcmul(x, std, noise), std * quadrature)


def ghosts(x: Tensor, axis: int, count: int, strength: float) -> Tensor:
    r"""Add ghosts: copies of the image along an axis, as of a periodic modulation of k-space.

    Every :math:`(q + 1)`-th line of k-space, from the central one, is weaker by the factor
    :math:`1 - s`, but the central line itself, so that the mean along the axis stays. It makes
    :math:`q` ghosts, :math:`n / (q + 1)` voxels apart. As the modulation is real and even, so is
    what it convolves with: the result is real before its magnitude is taken, and one small matrix
    product gives it.

    Parameters
    ----------
    x : (C, \*S) tensor
        Images.
    axis : int
        Axis of phase encoding, of :math:`n` voxels.
    count : int
        :math:`q`, at least 1. One ghost lies half the field of view away.
    strength : float
        :math:`s`, in [0, 1].

    Returns
    -------
    (C, \*S) tensor
        Not negative. Differentiable in ``x``.

    Raises
    ------
    ConfigError
        If axis, count or strength is out of range.

    References
    ----------
    Shaw et al., MICCAI Workshop SASHIMI 2020; in the form of TorchIO's ``RandomGhosting``
    (Perez-Garcia et al., Computer Methods and Programs in Biomedicine 2021), where the period of the
    modulation is called the number of ghosts.
    """
    _check_axis(x, axis)
    if count < 1:
        raise ConfigError(f"the number of ghosts must be at least 1, not {count}")
    if not 0 <= strength <= 1:
        raise ConfigError(f"the strength of ghosts must be from 0 to 1, not {strength}")
    matrix = _lines(x.shape[axis + 1], count + 1).to(x).mul(-strength)
    matrix.diagonal().add_(1)
    # Along the last axis one product does it; many products with single columns are far slower.
    last = axis == x.ndim - 2
    return (x @ matrix.T if last else along_axis(matrix, x, axis + 1)).abs()


@lru_cache(maxsize=64)
def _lines(n: int, period: int) -> Tensor:
    """(n, n) projection onto every ``period``-th line of k-space but the central one."""
    frequency = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64).round()
    chosen = (frequency % period == 0) & (frequency != 0)
    if n % 2 == 0:
        # The line at the Nyquist frequency is its own mirror image; it stays so.
        chosen[n // 2] = (n // 2) % period == 0
    kernel = torch.fft.ifft(chosen.to(torch.complex128)).real
    index = torch.arange(n)
    circulant: Tensor = kernel[(index[:, None] - index) % n]
    return circulant


def motion(x: Tensor, times: Tensor, rotations: Tensor, translations: Tensor, axis: int) -> Tensor:
    r"""Let the head move while k-space is filled line by line.

    Lines along ``axis`` are acquired one after the other, from the most negative frequency (time 0)
    to the most positive one (time 1); the central line, of frequency 0, half-way. Lines before
    ``times[0]`` show the head in its first position, those from ``times[i]`` to ``times[i + 1]``
    after movement ``i``; positions do not add up. The image is the magnitude of the inverse
    transform.

    The central line is nearly all of the intensity, so that the head appears where it was then.
    Therefore that position is the reference: ``x`` shows the head there, and at other times it is
    moved by :math:`T_i T_c^{-1}` with :math:`T_i` the rigid motion at the time, :math:`T_c` that at
    the time of the central line and :math:`T = 1` before the first movement. If the central line is
    acquired before the first movement, these are the movements themselves.

    Parameters
    ----------
    x : (C, \*S) tensor
        Images of the head in its position at the time of the central line.
    times : (M,) tensor
        Of the movements, in [0, 1], not decreasing.
    rotations : (M, 1) or (M, 3) tensor
        Angles about the centre, radians, as of
        :func:`~l2s_pydra.synthesis.deformation.affine_matrix`.
    translations : (M, ndim) tensor
        After the rotation, voxels.
    axis : int
        Axis along which the lines follow each other.

    Returns
    -------
    (C, \*S) tensor
        Not negative. Differentiable in ``x``; moved images are sampled linearly, and continue beyond
        the border with the values there.

    Raises
    ------
    ConfigError
        If the axis or a time is out of range, or times decrease.
    ShapeError
        If the numbers of movements or of their parameters do not fit.

    References
    ----------
    Shaw et al., MRI k-space motion artefact augmentation, MIDL 2019.
    """
    _check_axis(x, axis)
    moments = _checked_times(times)
    _check_movements(x.ndim - 1, len(moments), rotations, translations)
    n, dim = x.shape[axis + 1], axis + 1
    first = [0, *(math.ceil(t * n) for t in moments), n]
    positions = _positions(x.ndim - 1, rotations, translations)
    central = max(i for i, line in enumerate(first[:-1]) if line <= n // 2)
    negative, positive = [], []
    for i, (matrix, shift) in enumerate(_relative(positions, central)):
        if first[i] == first[i + 1]:
            continue
        moved = x if i == central else _moved(x, matrix, shift)
        half = torch.fft.rfft(moved, dim=dim)
        start, stop = first[i] - n // 2, first[i + 1] - n // 2
        if start < 0:
            # A real image: the lines of negative frequency are those of the positive, conjugated.
            end = min(stop, 0)
            negative.append(half.narrow(dim, 1 - end, end - start).flip(dim).conj())
        if stop > 0:
            # A copy of these lines, so that the other lines need no memory any longer.
            begin = max(start, 0)
            positive.append(half.narrow(dim, begin, stop - begin).clone())
    image = torch.fft.ifft(torch.cat([*positive, *negative], dim), dim=dim)
    return _magnitude(image.real, image.imag)


def _magnitude(real: Tensor, imaginary: Tensor) -> Tensor:
    """Square root of the sum of squares, whose derivative at 0 is 0, not NaN."""
    if not (torch.is_grad_enabled() and (real.requires_grad or imaginary.requires_grad)):
        return torch.hypot(real, imaginary)
    square = real.square() + imaginary.square()
    empty = square == 0
    return square.masked_fill(empty, 1).sqrt().masked_fill(empty, 0)


_Position = tuple[Tensor, Tensor]


def _positions(ndim: int, rotations: Tensor, translations: Tensor) -> Iterator[_Position]:
    yield torch.eye(ndim), torch.zeros(ndim)
    neutral = [1.0] * ndim, [0.0] * (ndim * (ndim - 1) // 2)
    for angles, shift in zip(rotations.tolist(), translations.tolist(), strict=True):
        yield affine_matrix(angles, *neutral), torch.tensor(shift)


def _relative(positions: Iterator[_Position], central: int) -> Iterator[_Position]:
    """Rotation and shift that take the head from its central position to each."""
    known = list(positions)
    reference, offset = known[central]
    for rotation, shift in known:
        turn = rotation @ reference.T
        yield turn, shift - turn @ offset


def _moved(x: Tensor, rotation: Tensor, shift: Tensor) -> Tensor:
    """Rotate images (C, *S) about their centre, then shift them."""
    size = torch.tensor(x.shape[1:], dtype=torch.float64)
    back = rotation.double().T
    # Coordinates of grid_sample: -1 and 1 are the centres of the first and the last voxel.
    scale = 2 / (size - 1).clamp_min(1)
    middle = (size - 1) / 2
    constant = (-back @ (middle + shift)) * scale
    slope = scale[:, None] * back
    ndim = len(size)
    terms = []
    for axis, n in enumerate(x.shape[1:]):
        line = slope[:, axis, None] * torch.arange(n) + (constant[:, None] if axis == 0 else 0)
        view = (ndim, *(n if a == axis else 1 for a in range(ndim)))
        terms.append(line.view(view).to(x))
    rows = max(1, _SLAB // math.prod(x.shape[2:]))
    slabs = []
    for first in range(0, x.shape[1], rows):
        grid = terms[0][:, first : first + rows]
        for term in terms[1:]:
            grid = grid + term
        slabs.append(
            F.grid_sample(
                x[None], grid.flip(0).movedim(0, -1)[None],
                padding_mode="border", align_corners=True,
            )[0]
        )  # fmt: skip
    return torch.cat(slabs, 1)


def _check_axis(x: Tensor, axis: int) -> None:
    if not 0 <= axis < x.ndim - 1:
        raise ConfigError(f"an image of {x.ndim - 1} axes has no axis {axis}")


def _checked_times(times: Tensor) -> list[float]:
    if times.ndim != 1:
        raise ShapeError(f"times of movements must be a list, not of shape {tuple(times.shape)}")
    moments: list[float] = times.tolist()
    if moments != sorted(moments) or not all(0 <= t <= 1 for t in moments):
        raise ConfigError(f"times of movements must be in order and from 0 to 1, not {moments}")
    return moments


def _check_movements(ndim: int, count: int, rotations: Tensor, translations: Tensor) -> None:
    expected = (count, 1 if ndim == 2 else 3), (count, ndim)
    found = tuple(rotations.shape), tuple(translations.shape)
    if found != expected:
        raise ShapeError(
            f"{count} movements in {ndim}-D need rotations and translations of shapes "
            f"{expected[0]} and {expected[1]}, not {found[0]} and {found[1]}"
        )
