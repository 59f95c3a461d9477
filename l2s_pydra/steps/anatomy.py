"""What the names of a label table say about structures: where they lie, and whether in one piece.

Tables say no more than a name, so words decide. They are those of the tables of FreeSurfer, SPM,
SynthSeg and the neuromorphometrics atlas.
"""

import re
from collections.abc import Iterable, Sequence

from ..errors import LabelError
from ..labels import Label, LabelScheme

__all__ = ["comes_in_parts", "is_extracranial", "named_structures", "no_intracranial_reason"]

_AIRY = "paranasal|frontal|maxillar|spheno|ethmo|air"
_OUTSIDE = re.compile(
    r"(?i)skull|bone|calvari|scalp|skin|\bfat\b|adipose|muscle|\beyes?\b|eyeball|globe|\blens\b|"
    r"vitreous|\bair\b|mucosa|background|soft.?tissue|extra.?cranial|spinal.?(cord|canal)|vertebra|"
    # Sinuses of the dura lie inside, those that hold air do not
    rf"(?:{_AIRY}).*sinus(?!oid)|sinus(?!oid).*(?:{_AIRY})|"
    # The head as such and what is left of it, not the head of a structure
    r"^head extra.?cerebral$|^(?=.*\b(?:head|neck)\b)"
    r"(?:(?:rest|remainder|remaining|other|of|the|in|and|head|neck|tissues?|structures?)(?: |$))+$"
)
_FLUID = re.compile(r"(?i)\bcsf\b|cerebro.?spinal.?fluid|^fluid$")
_VENTRICLES = re.compile(r"(?i)(?<!extra)(?<!extra )(?<!non)(?<!non )(?<!outside )ventric")
_PARTS = re.compile(
    r"(?i)\bcsf\b|fluid|lesion|hypo.?intens|hyper.?intens|wmh|choroid|plexus|vessel|vein|arter|"
    r"infarct|stroke|tumou?r|o?edema|haemorrhage|hemorrhage|microbleed|perivascular"
)


def _plain(name: str) -> str:
    """Name with its words apart, which a word boundary does not see at an underscore.

    >>> _plain("Left-WM_hypointensities")
    'Left WM hypointensities'
    """
    return re.sub(r"[-_.]+", " ", name)


def is_extracranial(label: Label) -> bool:
    """Whether a structure lies outside the skull's inside, as far as its name tells.

    >>> [is_extracranial(Label(index=1, name=name)) for name in ("skull_bone", "Left-Putamen")]
    [True, False]
    """
    return bool(_OUTSIDE.search(_plain(label.name)))


def comes_in_parts(label: Label) -> bool:
    """Whether a structure may rightly consist of several pieces.

    Fluid, lesions, vessels and the choroid plexus do; so may any structure whose label does not
    tell left from right, as it may be two, or a tissue.

    >>> [comes_in_parts(Label(index=1, name=name)) for name in ("Left-Putamen", "hippocampus")]
    [False, True]
    """
    return label.side_or_guess == "midline" or bool(_PARTS.search(_plain(label.name)))


def named_structures(scheme: LabelScheme, names: Iterable[str] | None) -> tuple[int, ...]:
    """Channels of the structures of which the largest piece is to be kept.

    Parameters
    ----------
    scheme : LabelScheme
        The labels.
    names : iterable of str or None
        Names of structures; ``all`` for every one; empty for all but those that may rightly be in
        parts (:func:`comes_in_parts`); None for none.

    Returns
    -------
    tuple of int

    Raises
    ------
    LabelError
        If a name is not in the scheme.
    """
    if names is None:
        return ()
    wanted = list(names)
    channels = range(1, len(scheme))
    if not wanted:
        return tuple(c for c in channels if not comes_in_parts(scheme.labels[c]))
    if wanted == ["all"]:
        return tuple(channels)
    unknown = [name for name in wanted if name not in scheme.names[1:]]
    if unknown:
        raise LabelError(
            f"largest piece of {unknown[0]!r}: the model has no such structure; "
            f"it has {', '.join(scheme.names[1:])}, or 'all'"
        )
    return tuple(c for c in channels if scheme.names[c] in wanted)


def no_intracranial_reason(scheme: LabelScheme, *, stripped: bool) -> str:
    """Say why the labels do not add up to the inside of the skull; empty if they do.

    They do if there is a label of cerebrospinal fluid outside the ventricles, and the skull was not
    stripped, which takes fluid away. A label that is called fluid without more, such as ``CSF``, is
    taken for that around the brain.

    Parameters
    ----------
    scheme : LabelScheme
        The labels.
    stripped : bool
        Whether the images that the model learned from, or the image, are skull-stripped.

    Returns
    -------
    str
    """
    if not _has_fluid(scheme.labels[1:]):
        return (
            "the labels have no cerebrospinal fluid around the brain, so that they do not add up "
            "to the inside of the skull"
        )
    if stripped:
        return "skull-stripped images lack a part of the fluid around the brain"
    return ""


def _has_fluid(labels: Sequence[Label]) -> bool:
    """Whether a label is fluid, and not by its name that of the ventricles."""
    names = [_plain(label.name) for label in labels]
    return any(_FLUID.search(name) and not _VENTRICLES.search(name) for name in names)
