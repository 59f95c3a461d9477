"""Images as figures: labels over an image, and synthetic images beside real ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from ..errors import ShapeError
from ..labels import LabelScheme
from .colors import RGB, label_colors

__all__ = ["PLANES", "display_slice", "overlay_mosaic"]

PLANES = ("axial", "coronal", "sagittal")
"""The planes, as seen in the figures."""

# Of a RAS volume: axis normal to the plane, axis to the right, axis up; then the letters at the
# left, right, bottom and top edge. Left of the body is left of the picture.
_PLANES = {
    "axial": (2, 0, 1, "LRPA"),
    "coronal": (1, 0, 2, "LRIS"),
    "sagittal": (0, 1, 2, "PAIS"),
}
_GAP = 3
_DPI = 100
_LARGEST_PX = 700
_Float = npt.NDArray[np.floating[Any]]
_Array = npt.NDArray[Any]


@attrs.frozen
class _Ras:
    """Volume with axes closest to right, anterior, superior."""

    data: _Array
    affine: npt.NDArray[np.float64]

    @classmethod
    def of(cls, data: _Array, affine: npt.ArrayLike) -> "_Ras":
        source = np.asarray(affine, dtype=np.float64)
        # nibabel's orientation functions bear no types.
        orientation = io_orientation(source)  # type: ignore[no-untyped-call]
        to_source = inv_ornt_aff(orientation, data.shape)  # type: ignore[no-untyped-call]
        return cls(apply_orientation(data, orientation), source @ to_source)  # type: ignore[no-untyped-call]

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """Distance of neighbouring voxels along each axis."""
        spacing: npt.NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing

    def plane(self, name: str, index: int) -> _Array:
        """One slice, first row on top."""
        normal, right, up, _ = _PLANES[name]
        section = np.take(self.data, index, axis=normal)
        upright: _Array = (section.T if right < up else section)[::-1]
        return upright


def display_slice(data: _Array, affine: npt.ArrayLike, plane: str, index: int) -> _Array:
    """One slice of a volume as it is shown: first row on top, first column at the left.

    Parameters
    ----------
    data : (X, Y, Z) array
        A volume in any axis order.
    affine : (4, 4) array
        Voxel indices to mm, RAS+.
    plane : str
        One of :data:`PLANES`. Axial and coronal slices show the left of the body at the left,
        sagittal ones the back at the left; up is anterior (axial) or superior.
    index : int
        Number of the slice, counted from inferior, posterior or left.

    Returns
    -------
    2-D array
        A view where possible. Oblique volumes are shown along their own axes.
    """
    return _Ras.of(data, affine).plane(plane, index)


def overlay_mosaic(
    image: _Array,
    labels: npt.NDArray[np.integer[Any]],
    scheme: LabelScheme,
    path: str | Path,
    *,
    affine: npt.ArrayLike,
    slices: int = 6,
    planes: Sequence[str] = PLANES,
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
    planes : sequence of str
        Some of :data:`PLANES`.
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
    if image.ndim != 3 or image.shape != labels.shape:
        raise ShapeError(
            f"overlay of labels {labels.shape} on an image {image.shape}: "
            "two volumes (X, Y, Z) of one shape are expected"
        )
    grey, marks = _Ras.of(image, affine), _Ras.of(labels, affine)
    box = _region(grey.data, marks.data)
    rows = _Rows.fit(grey, box, _shown_planes(grey.data.shape, planes), slices, width_px)
    window = _window(grey.data, marks.data)
    colors = dict(zip(scheme.indices, label_colors(scheme), strict=True))
    present = set(np.unique(marks.data).tolist()) - {0}
    entries = [
        (name, colors[index])
        for index, name in zip(scheme.indices, scheme.names, strict=True)
        if index in present
    ]
    canvas = rows.canvas()
    for panel in rows.panels:
        plain = _rgb(_resize(panel.cut(grey), panel.shape), window)
        colored = _paint(plain, _enlarge(panel.cut(marks), panel.shape), colors, alpha)
        panel.put(canvas, plain, colored)
    return _save_mosaic(canvas, rows.panels, entries if legend else [], Path(path))


@attrs.frozen
class _Panel:
    """One slice: what is cut out of the volume, and where its plain version goes (pixels)."""

    plane: str
    index: int
    box: tuple[tuple[int, int], ...]
    shape: tuple[int, int]
    left: int
    top: int
    position_mm: float
    first: bool

    def cut(self, volume: _Ras) -> _Array:
        """Slice within the box, first row on top."""
        _, right, up, _ = _PLANES[self.plane]
        section = volume.plane(self.plane, self.index)
        rows = section.shape[0]
        (left, stop), (low, high) = self.box[right], self.box[up]
        return section[rows - high : rows - low, left:stop]

    def put(self, canvas: _Float, plain: _Float, colored: _Float) -> None:
        """Write the plain slice and, below it, the coloured one."""
        height, width = self.shape
        for top, picture in ((self.top, plain), (self.top + height + _GAP, colored)):
            canvas[top : top + height, self.left : self.left + width] = picture

    @property
    def caption(self) -> str:
        """Position of the slice."""
        return f"{'xyz'[_PLANES[self.plane][0]]} = {self.position_mm:.0f} mm"


@attrs.frozen
class _Rows:
    """Placement of all slices on a canvas."""

    panels: list[_Panel]
    height: int
    width: int

    @classmethod
    def fit(
        cls,
        volume: _Ras,
        box: tuple[tuple[int, int], ...],
        planes: Sequence[str],
        slices: int,
        width_px: int,
    ) -> "_Rows":
        """Choose the slices, and for each plane the scale (pixels per mm) that fills the width."""
        extent = [
            (stop - start) * mm for (start, stop), mm in zip(box, volume.spacing_mm, strict=True)
        ]
        indices = {plane: _spaced(*box[_PLANES[plane][0]], slices) for plane in planes}
        panels: list[_Panel] = []
        top, width = _GAP, 0
        for plane in planes:
            normal, right, up, _ = _PLANES[plane]
            free = width_px - _GAP * (len(indices[plane]) + 1)
            scale = free / (len(indices[plane]) * extent[right])
            scale = min(scale, _LARGEST_PX / max(extent[right], extent[up]))
            shape = (max(1, round(scale * extent[up])), max(1, round(scale * extent[right])))
            for column, index in enumerate(indices[plane]):
                left = _GAP + column * (shape[1] + _GAP)
                width = max(width, left + shape[1] + _GAP)
                position = _position_mm(volume, box, normal, index)
                panels.append(
                    _Panel(plane, index, box, shape, left, top, position, first=column == 0)
                )
            top += 2 * (shape[0] + _GAP) + 2 * _GAP
        return cls(_centred(panels, width), top - 2 * _GAP, width)

    def canvas(self) -> _Float:
        """Empty picture."""
        return np.full((self.height, self.width, 3), 0.0, dtype=np.float32)


def _centred(panels: Sequence[_Panel], width: int) -> list[_Panel]:
    """Centre each plane's row."""
    ends = {panel.plane: panel.left + panel.shape[1] + _GAP for panel in panels}
    return [attrs.evolve(p, left=p.left + (width - ends[p.plane]) // 2) for p in panels]


def _position_mm(volume: _Ras, box: tuple[tuple[int, int], ...], normal: int, index: int) -> float:
    """World coordinate, along the plane's axis, of the middle of a slice."""
    voxel = np.array([(start + stop - 1) / 2 for start, stop in box])
    voxel[normal] = index
    return float((volume.affine[:3, :3] @ voxel + volume.affine[:3, 3])[normal])


def _shown_planes(shape: tuple[int, ...], planes: Sequence[str]) -> list[str]:
    """Planes whose slices have more than one row and column; all, if there is none."""
    shown = [p for p in planes if min(shape[_PLANES[p][1]], shape[_PLANES[p][2]]) > 1]
    return shown or list(planes)


def _spaced(start: int, stop: int, count: int) -> list[int]:
    """At most ``count`` indices, evenly spaced between 10 and 90 % of [start, stop).

    >>> _spaced(0, 10, 2), _spaced(3, 4, 5)
    ([3, 7], [3])
    """
    steps = 0.1 + 0.8 * (np.arange(count) + 0.5) / count
    return sorted({int(start + step * (stop - start)) for step in steps})


def _region(image: _Array, labels: _Array) -> tuple[tuple[int, int], ...]:
    """Bounding box of the labels (else of the image's bright part) with a margin of 4 %."""
    inside = labels != 0
    if not inside.any():
        finite = np.nan_to_num(image)
        inside = finite > finite.mean()
    if not inside.any():
        inside = np.ones(image.shape, dtype=bool)
    box = []
    for axis, size in enumerate(inside.shape):
        hits = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        start, stop = int(hits[0]), int(hits[-1]) + 1
        margin = int(np.ceil(0.04 * (stop - start)))
        box.append((max(0, start - margin), min(size, stop + margin)))
    return tuple(box)


def _window(image: _Array, labels: _Array) -> tuple[float, float]:
    """Intensities shown black and white: the range of the labelled part without its tails."""
    values = image[labels != 0]
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max():
        values = image[np.isfinite(image)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low - 0.05 * (high - low)), float(high + 1e-6 * abs(high) + 1e-12)


def _rgb(section: _Float, window: tuple[float, float]) -> _Float:
    low, high = window
    grey = np.clip((np.nan_to_num(section, nan=low) - low) / (high - low), 0, 1)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)


def _paint(grey: _Float, marks: _Array, colors: Mapping[int, RGB], alpha: float) -> _Float:
    """Fill labels with their colour and outline them."""
    painted = grey.copy()
    edge = np.zeros(marks.shape, dtype=bool)
    for axis in (0, 1):
        change = np.diff(marks, axis=axis) != 0
        edge |= np.pad(change, [(0, int(axis == a)) for a in (0, 1)])
        edge |= np.pad(change, [(int(axis == a), 0) for a in (0, 1)])
    for index in np.unique(marks):
        if index == 0 or int(index) not in colors:
            continue
        color = np.array(colors[int(index)], dtype=np.float32)
        inside = marks == index
        painted[inside] = (1 - alpha) * painted[inside] + alpha * color
        painted[inside & edge] = color
    return painted


def _enlarge(section: _Array, shape: tuple[int, int]) -> _Array:
    """Nearest neighbour."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(shape, section.shape, strict=True)
    )
    return section[np.ix_(rows, columns)]


def _resize(section: _Array, shape: tuple[int, int]) -> _Float:
    """Linear interpolation, one axis at a time."""
    values = section.astype(np.float64)
    for axis, new in enumerate(shape):
        old = values.shape[axis]
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(position).astype(int)
        weight = np.expand_dims(position - low, 1 - axis)
        high = np.minimum(low + 1, old - 1)
        values = (1 - weight) * values.take(low, axis) + weight * values.take(high, axis)
    return values


def _figure(width_px: int, height_px: int, **options: Any) -> Any:
    """Matplotlib figure of so many pixels, without the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the "Software" entry the same picture has the same bytes.
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})
    return path


def _save_mosaic(
    canvas: _Float, panels: Sequence[_Panel], entries: Sequence[tuple[str, RGB]], path: Path
) -> Path:
    height, width = canvas.shape[:2]
    columns = max(1, width // 230)
    lines = -(-len(entries) // columns)
    foot = 26 * lines + 18 if lines else 0
    figure = _figure(width, height + foot, facecolor="white")
    figure.figimage(np.rint(255 * canvas).astype(np.uint8), 0, foot, origin="upper")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / (height + foot), text, **style)

    for panel in panels:
        _annotate(panel, write)
    for number, (name, color) in enumerate(entries):
        column, line = number // lines, number % lines
        x, y = 8 + column * (width / columns), height + 22 + 26 * line
        write(x, y, "■", color=color, fontsize=15, va="center")
        write(x + 22, y, name.replace("_", " "), color="#1a1a1a", fontsize=10, va="center")
    return _save(figure, path)


def _annotate(panel: _Panel, write: Any) -> None:
    """Position on the coloured slice, and on a row's first plain one the body's directions."""
    height, width = panel.shape
    style = {"color": "#f2f2f2", "fontsize": 8}
    bottom = panel.top + 2 * height + _GAP - 4
    write(panel.left + width - 4, bottom, panel.caption, ha="right", **style)
    if not panel.first:
        return
    letters = _PLANES[panel.plane][3]
    middle = (panel.left + width / 2, panel.top + height / 2)
    bold = {"color": "#ffd24d", "fontsize": 10, "fontweight": "bold"}
    write(panel.left + 4, middle[1], letters[0], va="center", **bold)
    write(panel.left + width - 4, middle[1], letters[1], va="center", ha="right", **bold)
    write(middle[0], panel.top + height - 4, letters[2], ha="center", **bold)
    write(middle[0], panel.top + 4, letters[3], ha="center", va="top", **bold)
