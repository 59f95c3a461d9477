"""Checks of what the steps are given, and names made of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["ROLES", "check_lists", "check_roles", "unique_names"]

ROLES = {"learn": "learned from", "validate": "validated on", "test": "tested on"}
"""What a participant can be for. A training never reads the images of those to test on."""


def check_lists(count: int, **lists: Sequence[Any]) -> None:
    """Check that there is one of each for every image.

    Raises
    ------
    ConfigError
        If a list has another length.
    """
    for name, items in lists.items():
        if len(items) != count:
            raise ConfigError(
                f"{name}: {len(items)} are given for {count} image(s); give one for each"
            )


def check_roles(participants: Sequence[str], roles: Sequence[str]) -> None:
    """Check that roles are known and every participant has one.

    Raises
    ------
    ConfigError
        If not; everyone with two roles is named.
    """
    unknown = sorted(set(roles) - set(ROLES))
    if unknown:
        raise ConfigError(
            f"roles: {unknown[0]!r} is unknown; available: {', '.join(map(repr, ROLES))}"
        )
    found: dict[str, set[str]] = {}
    for participant, role in zip(participants, roles, strict=True):
        found.setdefault(participant, set()).add(role)
    several = [
        f"{participant} is to be {' and '.join(ROLES[role] for role in ROLES if role in own)}"
        for participant, own in sorted(found.items())
        if len(own) > 1
    ]
    if several:
        raise ConfigError(f"{', '.join(several)}; give each participant one role")


def unique_names(participants: Sequence[str], images: Sequence[Path]) -> list[str]:
    """Name each image by its file, after its participant where the file does not say whose it is."""
    stems = [Path(image).name.split(".")[0] for image in images]
    return [s if s.startswith(p) else f"{p} {s}" for p, s in zip(participants, stems, strict=True)]
