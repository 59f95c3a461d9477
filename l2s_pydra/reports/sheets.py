"""Sheets of images: each in three planes, plain and with the outlines of its labels."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from .canvas import new_figure, save_png
from .colors import RGB, palette
from .slices import PLANES, Array, Box, Picture, Plane, Volume, paint, to_rgb

__all__ = ["draw_sheet"]

_GAP = 3
_BETWEEN = 14  # pixels between the images of a sheet
_LINE_PX = 15
_LETTER_PX = 5.6  # width of a letter of a caption


def draw_sheet(
    images: Sequence[Array],
    labels: Sequence[npt.NDArray[np.integer[Any]]],
    captions: Sequence[str],
    path: str | Path,
    *,
    colors: Mapping[int, RGB] | None = None,
    affine: npt.ArrayLike | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    columns: int = 2,
    width_px: int = 1400,
) -> Path:
    """Draw images on a sheet, each with its caption under it.

    Of each image the axial, coronal and sagittal slice through the middle of its labels are shown,
    plain and, below, with the outlines of the labels. All are on one scale and show the same
    intensities black and white.

    Parameters
    ----------
    images : sequence of (X, Y, Z) or (X, Y) arrays
        All on the grid of ``affine``; two-dimensional ones are axial.
    labels : sequence of integer arrays
        Labels of each, on its grid; 0 is background.
    captions : sequence of str
        Text under each; lines are wrapped.
    path : str or Path
        PNG to write; its folder is made.
    colors : mapping, optional
        Label to colour of its outline; distinct ones by default.
    affine : (4, 4) array, optional
        Voxel indices to mm, RAS+; the identity by default.
    limits : (float, float), default=(0, 1)
        Intensities that are black and white.
    columns : int, default=2
        Images beside each other.
    width_px : int, default=1400
        Width of the sheet, pixels.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ShapeError
        If there is no image, their numbers differ, or the labels of one do not fit it.
    """
    if not images or not len(images) == len(labels) == len(captions):
        raise ShapeError(
            f"{path}: {len(images)} image(s), {len(labels)} label map(s) and {len(captions)} "
            "caption(s); give at least one image, and labels and a caption for each"
        )
    columns = min(columns, len(images))
    shown = [
        _Shown.of(image, marks, np.eye(4) if affine is None else affine)
        for image, marks in zip(images, labels, strict=True)
    ]
    colors = colors or _distinct(labels)
    cell = (width_px - _BETWEEN * (columns - 1)) // columns
    scale = min(one.scale(cell) for one in shown)
    pictures = [one.picture(scale, limits, colors) for one in shown]
    texts = [_wrapped(caption, cell) for caption in captions]
    return _put(pictures, texts, columns, cell, path)


@attrs.frozen
class _Shown:
    """One image with its labels, axes right, anterior, superior, and where it is cut."""

    image: Volume
    labels: Volume
    planes: tuple[Plane, ...]
    middle: tuple[int, ...]

    @classmethod
    def of(cls, image: Array, labels: Array, affine: npt.ArrayLike) -> "_Shown":
        image, labels = np.asarray(image), np.asarray(labels)
        if image.ndim not in (2, 3) or image.shape != labels.shape:
            raise ShapeError(
                f"labels {labels.shape} of an image {image.shape}: one shape, (X, Y, Z) or (X, Y), "
                "is expected"
            )
        planes = tuple(PLANES.values()) if image.ndim == 3 else (PLANES["axial"],)
        shape = (*image.shape, 1)[:3]
        grey = Volume.reoriented(image.reshape(shape), affine)
        marks = Volume.reoriented(labels.reshape(shape), affine)
        where = np.argwhere(marks.data != 0)
        middle = (where.min(0) + where.max(0)) // 2 if len(where) else np.array(shape) // 2
        return cls(grey, marks, planes, tuple(map(int, middle)))

    @property
    def box(self) -> Box:
        return tuple((0, n) for n in self.image.data.shape)

    def extents(self, axis: str) -> list[float]:
        """Size along ``right`` or ``up`` of each plane, mm."""
        data = self.image
        return [
            data.data.shape[getattr(p, axis)] * data.spacing_mm[getattr(p, axis)]
            for p in self.planes
        ]

    def scale(self, width_px: int) -> float:
        """Pixels a mm that make the planes, side by side, as wide as this."""
        return (width_px - _GAP * (len(self.planes) - 1)) / sum(self.extents("right"))

    def picture(
        self, scale: float, limits: tuple[float, float], colors: Mapping[int, RGB]
    ) -> Picture:
        """All planes side by side, outlined below, on black."""
        widths, heights = (
            [max(1, int(scale * mm)) for mm in self.extents(axis)] for axis in ("right", "up")
        )
        tallest = max(heights)
        canvas = np.zeros((2 * tallest + _GAP, sum(widths) + _GAP * (len(widths) - 1), 3))
        left = 0
        for plane, width, height in zip(self.planes, widths, heights, strict=True):
            index, top = self.middle[plane.normal], (tallest - height) // 2
            plain = to_rgb(
                self.image.slice(plane, index, self.box).astype(float), limits, (height, width)
            )
            outlined = paint(plain, self.labels.slice(plane, index, self.box), dict(colors), 0.0)
            for start, picture in ((top, plain), (top + tallest + _GAP, outlined)):
                canvas[start : start + height, left : left + width] = picture
            left += width + _GAP
        return canvas


def _distinct(labels: Sequence[Array]) -> dict[int, RGB]:
    present = sorted({int(v) for marks in labels for v in np.unique(marks)} - {0})
    return dict(zip(present, palette(len(present)), strict=True))


def _wrapped(caption: str, width_px: int) -> list[str]:
    width = max(10, int(width_px / _LETTER_PX))
    return [part for line in caption.splitlines() for part in textwrap.wrap(line, width) or [""]]


def _put(
    pictures: Sequence[Picture],
    texts: Sequence[Sequence[str]],
    columns: int,
    cell: int,
    path: str | Path,
) -> Path:
    """Write the pictures in rows, with their texts."""
    rows = range(0, len(pictures), columns)
    tall = [max(p.shape[0] for p in pictures[r : r + columns]) for r in rows]
    lines = [max(len(t) for t in texts[r : r + columns]) for r in rows]
    heights = [t + _LINE_PX * n + _BETWEEN for t, n in zip(tall, lines, strict=True)]
    height, width = sum(heights), columns * cell + _BETWEEN * (columns - 1)
    canvas = np.ones((height, width, 3))
    figure = new_figure(width, height, facecolor="white")
    top = 0
    for number, row in enumerate(rows):
        for column, picture in enumerate(pictures[row : row + columns]):
            left = column * (cell + _BETWEEN)
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            for line, text in enumerate(texts[row + column]):
                y = top + tall[number] + _LINE_PX * (line + 1)
                figure.text(left / width, 1 - y / height, text, fontsize=7.5, color="#1b1f24")
        top += heights[number]
    figure.figimage(np.rint(255 * canvas).astype(np.uint8), 0, 0, origin="upper", zorder=-1)
    return save_png(figure, path)
