"""Checks of what the steps are given, and names made of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["check_lists", "check_roles", "unique_names"]


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
        If not.
    """
    unknown = sorted(set(roles) - {"learn", "validate"})
    if unknown:
        raise ConfigError(f"roles: {unknown[0]!r} is unknown; available: 'learn', 'validate'")
    learning, validating = (
        {p for p, r in zip(participants, roles, strict=True) if r == role}
        for role in ("learn", "validate")
    )
    both = sorted(learning & validating)
    if both:
        raise ConfigError(
            f"{both[0]} is to be learned from and validated on; give each participant one role"
        )


def unique_names(participants: Sequence[str], images: Sequence[Path]) -> list[str]:
    """Name each image by its file, after its participant where the file does not say whose it is."""
    stems = [Path(image).name.split(".")[0] for image in images]
    return [s if s.startswith(p) else f"{p} {s}" for p, s in zip(participants, stems, strict=True)]
