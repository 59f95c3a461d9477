"""Colours of labels: distinct, also to colour-blind readers, and the same in every run."""

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..errors import LabelError
from ..labels import Label, LabelScheme

__all__ = ["RGB", "hex_color", "label_colors", "palette"]

RGB = tuple[float, float, float]
"""Red, green and blue, each in [0, 1], sRGB."""

# Okabe & Ito, Color Universal Design (2008), without the black that a dark image would hide.
_OKABE_ITO = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
_GREYS = ("#000000", "#808080", "#ffffff")

# Machado et al., IEEE TVCG 2009, severity 1; rows act on linear RGB.
_VISION = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ]
)
# Ottosson, "A perceptual color space for image processing" (2020): linear RGB -> LMS -> Lab.
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LIGHTNESS = (0.5, 0.95)  # OKLab; darker drowns in a dark image
_CHROMA = 0.1  # paler is taken for the image itself
_RIGHT_SHADE = 0.75


def hex_color(color: RGB) -> str:
    """Write a colour as ``#rrggbb``.

    >>> hex_color((1.0, 0.5, 0.0))
    '#ff8000'
    """
    return "#" + "".join(f"{round(255 * value):02x}" for value in color)


def _rgb(text: str) -> RGB:
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _seen(colors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """OKLab coordinates of (N, 3) sRGB colours to normal, protan and deutan eyes, (3, N, 3)."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.einsum("vij,nj->vni", _VISION, linear), 0, 1)
    lab: npt.NDArray[np.float64] = np.cbrt(seen @ _TO_LMS.T) @ _TO_LAB.T
    return lab


@lru_cache(maxsize=8)
def palette(count: int) -> tuple[RGB, ...]:
    """Return ``count`` distinct colours, the same ones every time.

    The first seven are those of Okabe and Ito. Each further one is, of a grid of candidates, the
    farthest from all before it (and from grey) in OKLab, under the worst of normal, protan and
    deutan vision.

    Parameters
    ----------
    count : int
        Number of colours; beyond some thirty they are hard to tell apart.

    Returns
    -------
    tuple of RGB

    Examples
    --------
    >>> [hex_color(color) for color in palette(2)]
    ['#e69f00', '#56b4e9']
    """
    chosen = [_rgb(text) for text in _OKABE_ITO[:count]]
    axis = np.linspace(0, 1, 11)
    candidates = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, *opponents = _seen(candidates)[0].T
    vivid = np.hypot(*opponents) >= _CHROMA
    candidates = candidates[vivid & (lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1])]
    seen = _seen(candidates)
    nearest = np.full(len(candidates), np.inf)
    for color in map(_rgb, (*_GREYS, *_OKABE_ITO)):
        nearest = np.minimum(nearest, _distance(seen, color))
    while len(chosen) < count:
        red, green, blue = candidates[int(np.argmax(nearest))].tolist()
        chosen.append((red, green, blue))
        nearest = np.minimum(nearest, _distance(seen, chosen[-1]))
    return tuple(chosen)


def _distance(seen: npt.NDArray[np.float64], color: RGB) -> npt.NDArray[np.float64]:
    gap = seen - _seen(np.array([color]))
    worst: npt.NDArray[np.float64] = np.linalg.norm(gap, axis=-1).min(axis=0)
    return worst


def label_colors(scheme: LabelScheme) -> list[RGB]:
    """Colour of each channel of a scheme.

    The table's ``color`` comes first; the others are drawn from :func:`palette`, one a group, with
    the right side a darker shade of the left. Background is black.

    Parameters
    ----------
    scheme : LabelScheme
        The labels.

    Returns
    -------
    list of RGB
        As long as the scheme.

    Raises
    ------
    LabelError
        If a ``color`` of the table is not written ``#rrggbb``.
    """
    needing = [label for label in scheme.labels[1:] if label.color is None]
    groups = list(dict.fromkeys(label.group_or_guess for label in needing))
    by_group = dict(zip(groups, palette(len(groups)), strict=True))
    return [(0.0, 0.0, 0.0), *(_color(label, by_group) for label in scheme.labels[1:])]


def _color(label: Label, by_group: dict[str, RGB]) -> RGB:
    if label.color is not None:
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", label.color):
            raise LabelError(
                f"label {label.index} ({label.name}): color {label.color!r} of the label table "
                "is not of the form #rrggbb"
            )
        return _rgb(label.color)
    red, green, blue = by_group[label.group_or_guess]
    shade = _RIGHT_SHADE if label.side_or_guess == "right" else 1.0
    return red * shade, green * shade, blue * shade
