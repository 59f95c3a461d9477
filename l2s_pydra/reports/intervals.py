"""Priors of intensity groups as intervals on one scale."""

from pathlib import Path

from ..errors import DatasetError
from .canvas import new_figure, save_png
from .tables import read_rows, to_number

__all__ = ["prior_intervals"]

_BLUE, _PALE, _INK = "#0072b2", "#a9cbe3", "#1b1f24"
_ROW_PX, _MARGIN_PX, _WIDTH_PX = 30, 110, 900


def prior_intervals(table: str | Path, path: str | Path) -> Path:
    """Draw one horizontal interval for each group of ``priors.tsv``.

    A dot is the mean over images; the dark bar reaches one standard deviation of that mean between
    images to either side, the pale one the standard deviation of the voxels within an image.

    Parameters
    ----------
    table : str or Path
        ``priors.tsv`` with the columns ``group``, ``n_images``, ``mean``, ``mean_std`` and ``std``.
    path : str or Path
        PNG to write; its folder is made.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    DatasetError
        If the table cannot be read or has no row.
    """
    rows = read_rows(table, ("group", "n_images", "mean", "mean_std", "std"))
    if not rows:
        raise DatasetError(f"{table}: table has no row; measure images with labels")
    means = [to_number(row["mean"]) for row in rows]
    between, within = ([to_number(row[name]) for row in rows] for name in ("mean_std", "std"))
    figure = new_figure(
        _WIDTH_PX, _MARGIN_PX + _ROW_PX * len(rows), facecolor="white", layout="constrained"
    )
    axes = figure.add_subplot()
    places = range(len(rows))
    axes.hlines(places, *_ends(means, within), color=_PALE, linewidth=9, label="voxels of an image")
    axes.hlines(
        places, *_ends(means, between), color=_BLUE, linewidth=4, label="its mean, between images"
    )
    axes.plot(means, places, "o", color=_INK, markersize=5, label="mean over images")
    axes.set_yticks(places, [_name(row["group"], row["n_images"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("normalised intensity (bars: one standard deviation to either side)")
    axes.grid(axis="x", color="#e3e7eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return save_png(figure, path)


def _ends(middle: list[float], half: list[float]) -> tuple[list[float], list[float]]:
    pairs = list(zip(middle, half, strict=True))
    return [m - h for m, h in pairs], [m + h for m, h in pairs]


def _name(group: str, images: str) -> str:
    return f"{group.replace('_', ' ')} ({images})"
