"""Images as figures: labels over an image, and synthetic images beside real ones."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from ..labels import LabelScheme
from .canvas import new_figure, save_png
from .colors import RGB, label_colors
from .slices import (
    PLANES,
    Array,
    Box,
    Picture,
    Plane,
    Volume,
    paint,
    region,
    spaced,
    to_rgb,
    window,
)

__all__ = ["SampleImage", "overlay_mosaic", "sample_mosaic"]

_GAP = 3
_LARGEST_PX = 700
_SMALLEST_PX = 40  # of a slice that is written on
_LEGEND_COLUMN, _LEGEND_LINE = 230, 26
_Write = Callable[..., None]


def overlay_mosaic(
    image: Array,
    labels: npt.NDArray[np.integer[Any]],
    scheme: LabelScheme,
    path: str | Path,
    *,
    affine: npt.ArrayLike,
    slices: int = 6,
    planes: Iterable[str] = PLANES,
    width_px: int = 1400,
    alpha: float = 0.45,
    legend: bool = True,
) -> Path:
    """Draw slices of an image, plain and with its labels, in three planes.

    For each plane a row of plain slices, evenly spaced through the labelled region, and below it
    the same slices with labels filled and outlined. Each slice bears its position in mm, each row
    the letters of the body's directions; the left of the body is left. A volume with a single
    slice is drawn in that plane alone.

    Parameters
    ----------
    image : (X, Y, Z) array
        Intensities, in any axis order.
    labels : (X, Y, Z) integer array
        Values of ``scheme``, on the grid of ``image``; 0 and values not in the scheme stay plain.
    scheme : LabelScheme
        Names and colours.
    path : str or Path
        PNG to write; its folder is made.
    affine : (4, 4) array
        Voxel indices to mm, RAS+.
    slices : int, default=6
        Slices a plane.
    planes : iterable of str
        Some of ``axial``, ``coronal`` and ``sagittal``.
    width_px : int, default=1400
        Width of the figure, pixels.
    alpha : float, default=0.45
        Opacity of the fill; the outline is opaque.
    legend : bool, default=True
        Name the labels under the mosaic.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ShapeError
        If image and labels are not three-dimensional or differ in shape.
    """
    subject = _Subject.of(image, labels, affine)
    panels = _rows(subject, _with_area(planes, image.shape, affine), slices, width_px)
    colors = dict(zip(scheme.indices, label_colors(scheme), strict=True))
    canvas = _canvas(panels)
    for panel in panels:
        plain, painted = subject.pictures(panel.plane, panel.index, panel.shape, colors, alpha)
        panel.put(canvas, plain, painted)
    present = subject.present if legend else set()
    return _save(canvas, panels, _entries(scheme, present), path)


@attrs.frozen
class SampleImage:
    """One image of :func:`sample_mosaic`."""

    title: str
    """Heading, such as ``synthetic, learned`` or ``real``; equal ones are written once."""
    image: Array
    """(X, Y, Z) intensities."""
    labels: npt.NDArray[np.integer[Any]]
    """(X, Y, Z) values of the scheme."""
    affine: npt.ArrayLike = attrs.field(factory=lambda: np.eye(4))
    """(4, 4), voxel indices to mm, RAS+."""


def sample_mosaic(
    samples: Sequence[SampleImage],
    scheme: LabelScheme,
    path: str | Path,
    *,
    planes: Iterable[str] = ("axial", "coronal"),
    width_px: int = 1400,
    alpha: float = 0.45,
) -> Path:
    """Draw images side by side, the middle slice of each, plain and with labels below.

    Parameters
    ----------
    samples : sequence of SampleImage
        One a column: say, four synthetic and then three real ones.
    scheme : LabelScheme
        Names and colours.
    path : str or Path
        PNG to write; its folder is made.
    planes : iterable of str
        Planes to show; those with a single row or column are left out.
    width_px : int, default=1400
        Width of the figure, pixels.
    alpha : float, default=0.45
        Opacity of the fill.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ShapeError
        If there is no sample, or the labels of one do not fit its image.
    """
    if not samples:
        raise ShapeError(f"{path}: no sample to draw; give at least one image with its labels")
    subjects = [_Subject.of(sample.image, sample.labels, sample.affine) for sample in samples]
    shown = _with_area(planes, samples[0].image.shape, samples[0].affine)
    panels = _columns(subjects, [sample.title for sample in samples], shown, width_px)
    colors = dict(zip(scheme.indices, label_colors(scheme), strict=True))
    canvas = _canvas(panels)
    for number, panel in enumerate(panels):
        subject = subjects[number % len(subjects)]
        panel.put(canvas, *subject.pictures(panel.plane, panel.index, panel.shape, colors, alpha))
    present = set().union(*(subject.present for subject in subjects))
    return _save(canvas, panels, _entries(scheme, present), path)


@attrs.frozen
class _Subject:
    """An image with its labels, the part of it that is shown, and how dark."""

    image: Volume
    labels: Volume
    box: Box
    limits: tuple[float, float]

    @classmethod
    def of(cls, image: Array, labels: Array, affine: npt.ArrayLike) -> "_Subject":
        if image.ndim != 3 or image.shape != labels.shape:
            raise ShapeError(
                f"overlay of labels {labels.shape} on an image {image.shape}: "
                "two volumes (X, Y, Z) of one shape are expected"
            )
        grey, marks = Volume.reoriented(image, affine), Volume.reoriented(labels, affine)
        box = region(grey.data, marks.data)
        return cls(grey, marks, box, window(grey.data, marks.data))

    @property
    def present(self) -> set[int]:
        """Labels that occur."""
        return {int(value) for value in np.unique(self.labels.data)}

    def extent_mm(self, axis: int) -> float:
        """Size of the shown part along an axis."""
        start, stop = self.box[axis]
        return (stop - start) * self.image.spacing_mm[axis]

    def slices(self, plane: Plane) -> int:
        """Slices of the shown part."""
        start, stop = self.box[plane.normal]
        return stop - start

    def pictures(
        self,
        plane: Plane,
        index: int,
        shape: tuple[int, int],
        colors: dict[int, RGB],
        alpha: float,
    ) -> tuple[Picture, Picture]:
        """Plain slice, and the same with labels."""
        plain = to_rgb(self.image.slice(plane, index, self.box), self.limits, shape)
        return plain, paint(plain, self.labels.slice(plane, index, self.box), colors, alpha)


@attrs.frozen(kw_only=True)
class _Panel:
    """One slice, and where it goes (pixels): plain, and with labels below."""

    plane: Plane
    index: int
    shape: tuple[int, int]
    left: int
    top: int
    painted_top: int
    heading: str = ""
    caption: str = ""
    letters: bool = False

    @property
    def right(self) -> int:
        return self.left + self.shape[1]

    @property
    def bottom(self) -> int:
        return self.painted_top + self.shape[0]

    def put(self, canvas: Picture, plain: Picture, painted: Picture) -> None:
        height = self.shape[0]
        for top, picture in ((self.top, plain), (self.painted_top, painted)):
            canvas[top : top + height, self.left : self.right] = picture


def _with_area(planes: Iterable[str], shape: tuple[int, ...], affine: npt.ArrayLike) -> list[Plane]:
    """Planes whose slices have more than one row and column; all, if there is none."""
    ras = Volume.reoriented(np.broadcast_to(np.int8(0), shape), affine).data.shape
    chosen = [PLANES[name] for name in planes]
    return [plane for plane in chosen if min(ras[plane.right], ras[plane.up]) > 1] or chosen


def _rows(subject: _Subject, planes: Sequence[Plane], slices: int, width_px: int) -> list[_Panel]:
    """Place several slices of one image, a plane a row, each as large as the width allows."""
    panels: list[_Panel] = []
    top = _GAP
    for plane in planes:
        indices = spaced(0, subject.slices(plane), slices)
        right, up = subject.extent_mm(plane.right), subject.extent_mm(plane.up)
        scale = (width_px - _GAP * (len(indices) + 1)) / (len(indices) * right)
        scale = min(scale, _LARGEST_PX / max(right, up))
        shape = (max(1, round(scale * up)), max(1, round(scale * right)))
        first = (width_px - len(indices) * (shape[1] + _GAP)) // 2
        for column, index in enumerate(indices):
            position = subject.image.position_mm(plane, index, subject.box)
            panel = _Panel(
                plane=plane,
                index=index,
                shape=shape,
                left=first + column * (shape[1] + _GAP),
                top=top,
                painted_top=top + shape[0] + _GAP,
                caption=f"{'xyz'[plane.normal]} = {round(position)} mm",
                letters=column == 0,
            )
            panels.append(panel)
        top = panels[-1].bottom + 2 * _GAP
    margin = min(panel.left for panel in panels) - _GAP
    return [attrs.evolve(panel, left=panel.left - margin) for panel in panels]


def _columns(
    subjects: Sequence[_Subject], titles: Sequence[str], planes: Sequence[Plane], width_px: int
) -> list[_Panel]:
    """Place the middle slice of several images, an image a column, a plane a row, at one scale."""
    free = width_px / len(subjects) - _GAP
    scale = min(free / s.extent_mm(plane.right) for s in subjects for plane in planes)
    scale = min(
        [scale, *(_LARGEST_PX / s.extent_mm(plane.up) for s in subjects for plane in planes)]
    )
    panels: list[_Panel] = []
    top = _GAP + 24
    for plane in planes:
        tallest = max(round(scale * subject.extent_mm(plane.up)) for subject in subjects)
        for column, subject in enumerate(subjects):
            size = tuple(
                max(1, round(scale * subject.extent_mm(a))) for a in (plane.up, plane.right)
            )
            lower = top + (tallest - size[0]) // 2
            panels.append(
                _Panel(
                    plane=plane,
                    index=subject.slices(plane) // 2,
                    shape=(size[0], size[1]),
                    left=round(column * (free + _GAP) + (free - size[1]) / 2) + _GAP,
                    top=lower,
                    painted_top=lower + tallest + _GAP,
                    heading=_once(titles, column) if plane is planes[0] else "",
                    letters=column == 0,
                )
            )
        top += 2 * (tallest + _GAP) + 2 * _GAP
    return panels


def _once(titles: Sequence[str], column: int) -> str:
    """Title of a column, unless its left neighbour has the same."""
    return "" if column and titles[column] == titles[column - 1] else titles[column]


def _canvas(panels: Sequence[_Panel]) -> Picture:
    """Black picture that holds the panels."""
    height = max(panel.bottom for panel in panels) + _GAP
    width = max(panel.right for panel in panels) + _GAP
    return np.zeros((height, width, 3))


def _entries(scheme: LabelScheme, present: set[int]) -> list[tuple[str, RGB]]:
    """Names and colours of the labels that occur."""
    return [
        (label.name.replace("_", " "), color)
        for label, color in zip(scheme.labels, label_colors(scheme), strict=True)
        if label.index in present and label.index != 0
    ]


def _save(
    canvas: Picture, panels: Sequence[_Panel], entries: Sequence[tuple[str, RGB]], path: str | Path
) -> Path:
    """Write the picture with its letters and, below, the legend."""
    height, width = canvas.shape[:2]
    lines = -(-len(entries) // max(1, width // _LEGEND_COLUMN))
    foot = _LEGEND_LINE * lines + 18 if lines else 0
    figure = new_figure(width, height + foot, facecolor="white")
    figure.figimage(np.rint(255 * canvas).astype(np.uint8), 0, foot, origin="upper")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / (height + foot), text, **style)

    for panel in panels:
        _annotate(panel, write)
    for number, (name, color) in enumerate(entries):
        column, line = divmod(number, lines)
        x = 8 + column * width / max(1, width // _LEGEND_COLUMN)
        y = height + 22 + _LEGEND_LINE * line
        write(x, y, "■", color=color, fontsize=15, va="center")
        write(x + 22, y, name, color="#1a1a1a", fontsize=10, va="center")
    return save_png(figure, path)


def _annotate(panel: _Panel, write: _Write) -> None:
    """Heading, position of the slice, directions of the body."""
    height, width = panel.shape
    if min(panel.shape) < _SMALLEST_PX:
        return
    pale = {"color": "#f2f2f2", "fontsize": 8}
    write(panel.right - 4, panel.bottom - 4, panel.caption, ha="right", **pale)
    write(panel.left, _GAP + 18, panel.heading, color="#f2f2f2", fontsize=10)
    if not panel.letters:
        return
    left, right, bottom, top = list(panel.plane.letters)
    middle = (panel.left + width / 2, panel.top + height / 2)
    bold = {"color": "#ffd24d", "fontsize": 10, "fontweight": "bold"}
    write(panel.left + 4, middle[1], left, va="center", **bold)
    write(panel.right - 4, middle[1], right, va="center", ha="right", **bold)
    write(middle[0], panel.top + height - 4, bottom, ha="center", **bold)
    write(middle[0], panel.top + 4, top, ha="center", va="top", **bold)
