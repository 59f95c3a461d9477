"""Which models segmented the images of a derivative, without reading all of its sidecars.

Ten thousand jobs of one participant each would read a hundred million sidecars to say in the methods
text what the derivative holds. What sidecars say is therefore kept in the hidden folder, by
participant. A run reads those of its own participants, and of folders that nothing is known of; what
is kept of folders that are gone is dropped. Where the file is missing or damaged, all are read.
"""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import attrs

from ..jsonfiles import read_json
from .derivatives import write_json
from .publishing import HIDDEN, USES
from .uses import Segmented, Use, counted_uses, segmented

__all__ = ["known_uses"]

_log = logging.getLogger(__name__)
_FORMAT = 2
_COUNTED = ("contrasts", "participants", "volumes")
Known = dict[str, list[Segmented]]


def known_uses(output_dir: str | Path, participants: Collection[str] | None = None) -> list[Use]:
    """Tell which models segmented the images of a derivative, and keep it for the next time.

    To be called under the lock of the output folder.

    Parameters
    ----------
    output_dir : path
        Root of the derivative.
    participants : collection of str, optional
        Whose sidecars may have changed, ``sub-<label>``; everyone's by default.

    Returns
    -------
    list of Use
        As of :func:`l2s_pydra.bids.uses.find_uses`.
    """
    root = Path(output_dir)
    place = root / HIDDEN / USES
    before = {} if participants is None else _read(place)
    known = {
        path.name: before[path.name]
        if path.name in before and path.name not in (participants or ())
        else list(segmented(root, path.name))
        for path in sorted(root.glob("sub-*"))
        if path.is_dir()
    }
    if known != before and place.parent.is_dir():
        write_json(place, _to_json(known))
    return counted_uses(image for images in known.values() for image in images)


def _to_json(known: Known) -> dict[str, Any]:
    uses = list(dict.fromkeys(image.use for images in known.values() for image in images))
    number = {use: n for n, use in enumerate(uses)}
    return {
        "format": _FORMAT,
        "uses": [
            attrs.asdict(use, filter=lambda field, _: field.name not in _COUNTED) for use in uses
        ],
        "participants": {
            name: [[number[i.use], i.participant, i.suffix, i.volumes] for i in images]
            for name, images in known.items()
        },
    }


def _read(place: Path) -> Known:
    """Read what is kept; nothing where it cannot be read."""
    try:
        values = read_json(place)
        if values["format"] != _FORMAT:
            raise ValueError(f"format {values['format']!r} is not known")
        uses = [Use(**{**use, "largest": tuple(use["largest"])}) for use in values["uses"]]
        return {
            str(name): list(_images(images, uses))
            for name, images in values["participants"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        _log.debug("%s: %s", place, error)
        return {}


def _images(rows: Iterable[Any], uses: list[Use]) -> Iterable[Segmented]:
    for number, participant, suffix, volumes in rows:
        yield Segmented(
            use=uses[number],
            participant=str(participant),
            suffix=str(suffix),
            volumes=bool(volumes),
        )
