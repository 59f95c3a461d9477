"""Changes of an image that should not change its segmentation, and the way back."""

from collections.abc import Callable
from typing import Any

import attrs
import nibabel
import numpy as np

from l2s_pydra.labels import LabelScheme

Back = Callable[[Any, Any, LabelScheme], tuple[Any, Any]]
"""From the labels of the changed image and of the image as it is to two arrays to compare."""


@attrs.frozen
class Change:
    """A change with its way back."""

    name: str
    make: Callable[[Any], tuple[Any, Back]]

    @property
    def key(self) -> str:
        """Name for files."""
        return "".join(c if c.isalnum() else "-" for c in self.name)


def _same(labels: Any, clean: Any, _: LabelScheme) -> tuple[Any, Any]:
    return labels, clean


def _unit(image: Any) -> Any:
    data = image.get_fdata(dtype=np.float32)
    low, high = data.min(), np.percentile(data[data > data.mean()], 99.5)
    return np.clip((data - low) / (high - low), 0, 1.2)


def _like(data: Any, image: Any) -> Any:
    return nibabel.Nifti1Image(np.float32(data), image.affine)


def _values(change: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Back]]:
    return lambda image: (_like(change(_unit(image)), image), _same)


def _turned(degrees: float, axis: int) -> Callable[[Any], tuple[Any, Back]]:
    """Turn the head in the world: only the affine changes."""

    def make(image: Any) -> tuple[Any, Back]:
        angle = np.deg2rad(degrees)
        others = [i for i in range(3) if i != axis]
        turn = np.eye(4)
        turn[np.ix_(others, others)] = [
            [np.cos(angle), -np.sin(angle)],
            [np.sin(angle), np.cos(angle)],
        ]
        middle = image.affine @ [*((n - 1) / 2 for n in image.shape), 1]
        shift, unshift = np.eye(4), np.eye(4)
        shift[:3, 3], unshift[:3, 3] = middle[:3], -middle[:3]
        affine = shift @ turn @ unshift @ image.affine
        return nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), affine), _same

    return make


def _stored(codes: str) -> Callable[[Any], tuple[Any, Back]]:
    """Store the voxels along other axes."""

    def make(image: Any) -> tuple[Any, Back]:
        here = nibabel.io_orientation(image.affine)
        there = nibabel.orientations.axcodes2ornt(codes)
        way = nibabel.orientations.ornt_transform(here, there)
        home = nibabel.orientations.ornt_transform(there, here)

        def back(labels: Any, clean: Any, _: LabelScheme) -> tuple[Any, Any]:
            return nibabel.orientations.apply_orientation(labels, home), clean

        return image.as_reoriented(way), back

    return make


def _mirrored(image: Any) -> tuple[Any, Back]:
    """Exchange left and right of the anatomy."""
    axis = int(np.abs(image.affine[0, :3]).argmax())

    def back(labels: Any, clean: Any, scheme: LabelScheme) -> tuple[Any, Any]:
        table = np.arange(max(scheme.indices) + 1)
        for index, other in zip(scheme.indices, scheme.opposite, strict=True):
            table[index] = scheme.indices[other]
        return np.flip(table[labels], axis), clean

    return _like(np.flip(image.get_fdata(dtype=np.float32), axis), image), back


def _noisy(std: float) -> Callable[[Any], Any]:
    def change(data: Any) -> Any:
        noise = np.random.default_rng(0).normal(0, std, (2, *data.shape))
        return np.hypot(data + noise[0], noise[1])

    return change


def _biased(data: Any) -> Any:
    """A smooth field from a half to twice the intensity."""
    from scipy.ndimage import zoom

    coarse = np.random.default_rng(1).uniform(-1, 1, (4, 4, 4))
    field = zoom(coarse, [n / 4 for n in data.shape], order=3, grid_mode=True, mode="nearest")
    return data * 2.0 ** np.clip(field, -1, 1)


def _thick(size: int, axis: int) -> Callable[[Any], tuple[Any, Back]]:
    """Average slices of ``size`` voxels; the clean labels are those of the slice in the middle."""

    def make(image: Any) -> tuple[Any, Back]:
        data = image.get_fdata(dtype=np.float32)
        count = data.shape[axis] // size
        kept = np.take(data, range(count * size), axis)
        shape = [*kept.shape[:axis], count, size, *kept.shape[axis + 1 :]]
        affine = image.affine.copy()
        affine[:3, 3] += affine[:3, axis] * (size - 1) / 2
        affine[:3, axis] *= size

        def back(labels: Any, clean: Any, _: LabelScheme) -> tuple[Any, Any]:
            middle = range((size - 1) // 2, count * size, size)
            return labels, np.take(clean, middle, axis)

        return nibabel.Nifti1Image(kept.reshape(shape).mean(axis + 1), affine), back

    return make


def _cut(share: float, *, top: bool) -> Callable[[Any], tuple[Any, Back]]:
    """Leave out the upper or the lower part of the head."""

    def make(image: Any) -> tuple[Any, Back]:
        axis = int(np.abs(image.affine[2, :3]).argmax())
        data = image.get_fdata(dtype=np.float32)
        filled = np.flatnonzero((data > 0.05 * data.max()).any(tuple({0, 1, 2} - {axis})))
        low, high = int(filled[0]), int(filled[-1]) + 1
        gone = round(share * (high - low))
        upwards = image.affine[2, axis] > 0
        part = slice(0, high - gone) if upwards == top else slice(low + gone, data.shape[axis])
        window = [slice(None)] * 3
        window[axis] = part

        def back(labels: Any, clean: Any, _: LabelScheme) -> tuple[Any, Any]:
            return labels, clean[tuple(window)]

        return image.slicer[tuple(window)], back

    return make


def _slab(mm: float) -> Callable[[Any], tuple[Any, Back]]:
    """Keep the slices in the middle of the head."""

    def make(image: Any) -> tuple[Any, Back]:
        axis = int(np.abs(image.affine[2, :3]).argmax())
        data = image.get_fdata(dtype=np.float32)
        filled = np.flatnonzero((data > 0.05 * data.max()).any(tuple({0, 1, 2} - {axis})))
        count = max(1, round(mm / float(np.linalg.norm(image.affine[:3, axis]))))
        first = max(0, int(filled[0] + filled[-1] + 1 - count) // 2)
        window = [slice(None)] * 3
        window[axis] = slice(first, first + count)

        def back(labels: Any, clean: Any, _: LabelScheme) -> tuple[Any, Any]:
            return labels, clean[tuple(window)]

        return image.slicer[tuple(window)], back

    return make


CHANGES = (
    Change("turned by 15 degrees about the z axis", _turned(15, 2)),
    Change("turned by 20 degrees about the x axis", _turned(20, 0)),
    Change("turned by 30 degrees about the y axis", _turned(30, 1)),
    Change("stored as PSR", _stored("PSR")),
    Change("left and right exchanged", _mirrored),
    Change("Rician noise, 5 % of the range", _values(_noisy(0.05))),
    Change("Rician noise, 10 % of the range", _values(_noisy(0.1))),
    Change("bias field from 1/2 to 2", _values(_biased)),
    Change(
        "contrast upside down", _values(lambda u: np.where(u > 0.02, 1.1 - np.minimum(u, 1), 0))
    ),
    Change("gamma 2", _values(lambda u: u**2)),
    Change("2 mm slices", _thick(2, 2)),
    Change("3 mm slices", _thick(3, 2)),
    Change("4 mm slices", _thick(4, 2)),
    Change("6 mm slices", _thick(6, 2)),
    Change("6 mm slices along the first axis", _thick(6, 0)),
    Change("upper quarter missing", _cut(0.25, top=True)),
    Change("lower quarter missing", _cut(0.25, top=False)),
    Change("middle 50 mm only", _slab(50)),
    Change("middle 30 mm only", _slab(30)),
    Change("middle 18 mm only", _slab(18)),
    Change("middle 8 mm only", _slab(8)),
)
