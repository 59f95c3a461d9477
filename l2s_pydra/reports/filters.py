"""How the templates write values: links, volumes, times."""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from .inputs import ImageSummary

__all__ = ["FILTERS"]


def _link(href: str) -> str:
    """Path as a URL; only web addresses keep their colon.

    >>> _link("sub-01/figures/a b.png")
    'sub-01/figures/a%20b.png'
    """
    return href if href.startswith("https://") else quote(href, safe="/#")


def _title(image: ImageSummary) -> str:
    """Suffix and entities of an image, without the participant.

    >>> _title({"image": "sub-1_ses-a_T1w",
    ...         "entities": {"subject": "1", "session": "a", "suffix": "T1w"}})
    'T1w, session a'
    """
    entities = image["entities"]
    rest = [f"{k} {v}" for k, v in entities.items() if k not in ("subject", "suffix", "datatype")]
    return ", ".join([entities.get("suffix", image["image"]), *rest])


def _total(image: ImageSummary) -> float:
    return sum(row["volume_mm3"] for row in image["volumes"])


def _volume_rows(image: ImageSummary) -> list[dict[str, Any]]:
    """Add the share of the total and the length of the bar, both in percent."""
    total = _total(image) or 1.0
    largest = max((row["volume_mm3"] for row in image["volumes"]), default=0) or 1.0
    return [
        {
            "color": None,
            **row,
            "share": row["volume_mm3"] / total,
            "width": round(100 * row["volume_mm3"] / largest, 2),
        }
        for row in image["volumes"]
    ]


def _flagged(image: ImageSummary) -> set[str]:
    """Names of the structures that a flag is about."""
    return {name for flag in image.get("flags", ()) for name in flag["structures"]}


def _sum_warnings(images: Sequence[ImageSummary]) -> int:
    """Count what a reader should look at: warnings, of the header too, and flags."""
    return sum(
        len(image["warnings"]) + len(image.get("header_warnings", ())) + len(image.get("flags", ()))
        for image in images
    )


def _expected(row: Mapping[str, Any], calibrated: bool) -> str:
    """Score of a structure with two decimals.

    >>> _expected({"predicted_dice": 0.8149, "self_dice": 0.9}, True)
    '0.81'
    """
    value = row.get("predicted_dice" if calibrated else "self_dice")
    return "n/a" if value is None else f"{value:.2f}"


def _ml(volume_mm3: float) -> str:
    """Millilitres, with two decimals below 10.

    >>> _ml(1234.5), _ml(452e3)
    ('1.23', '452.0')
    """
    volume = volume_mm3 / 1000
    return f"{volume:.2f}" if volume < 10 else f"{volume:.1f}"


def _duration(seconds: float) -> str:
    """Time in words.

    >>> _duration(3.21), _duration(75), _duration(7300)
    ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _score(value: float | None) -> str:
    return "not measured" if value is None or value != value else f"{value:.3f}"


def _spacing(values: Iterable[float]) -> str:
    return " × ".join(f"{value:.3g}" for value in values)


def _plain(value: Any) -> str:
    """Value of a setting, or its meaning without the marks of its markup.

    >>> _plain((0.0, 1.0)), _plain(None), _plain("The ``name`` of :class:`Thing`.")
    ('[0.0, 1.0]', 'null', 'The name of Thing.')
    """
    if isinstance(value, str):
        return re.sub(r"``(.+?)``|:\w+:`~?(?:[\w.]*\.)?([\w]+)`", r"\1\2", value)
    return json.dumps(value, default=str)


def _color(text: object) -> str:
    """Colour for a style; what is none may not become one.

    >>> _color("#e69f00"), _color("red;background:url(x)"), _color(None)
    ('#e69f00', '', '')
    """
    return str(text) if re.fullmatch(r"#[0-9a-fA-F]{6}", str(text)) else ""


FILTERS: dict[str, Callable[..., Any]] = {
    "color": _color,
    "command": shlex.join,
    "digits": _digits,
    "duration": _duration,
    "expected": _expected,
    "flagged": _flagged,
    "link": _link,
    "ml": _ml,
    "plain": _plain,
    "percent": lambda share: f"{100 * share:.1f} %",
    "pretty": lambda values: json.dumps(values, indent=2, ensure_ascii=False, default=str),
    "score": _score,
    "spacing": _spacing,
    "spaced": lambda text: re.sub(r"(?<=\w)_(?=\w)", " ", text),
    "sum_warnings": _sum_warnings,
    "title": _title,
    "total": _total,
    "volume_rows": _volume_rows,
    "words": lambda name: str(name).replace("_", " "),
}
"""Filters by name, as the templates call them."""
