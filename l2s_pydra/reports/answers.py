"""What a comparison of trainings found, in sentences."""

from collections.abc import Mapping, Sequence

from .tables import to_number

__all__ = ["answer", "caveats", "difference_in_words", "focus_of", "standing"]

_LEARNED = "learn2synth"
_Row = Mapping[str, str]


def focus_of(modes: Sequence[str], baseline: str) -> str | None:
    """Mode that the first sentence is about: learn2synth, or the first that is no baseline.

    >>> focus_of(["synthseg", "mixed", "learn2synth"], "synthseg")
    'learn2synth'
    """
    others = [mode for mode in modes if mode != baseline]
    return _LEARNED if _LEARNED in others else (others[0] if others else None)


def answer(contrast: str, rows: Mapping[str, _Row], baseline: str, focus: str | None) -> str:
    """Say how one mode did on one contrast, and whether it differs from the baseline.

    Parameters
    ----------
    contrast : str
        Which images.
    rows : mapping
        Mode to its row of ``summary.tsv`` for the mean Dice over structures.
    baseline : str
        Mode that others are compared with.
    focus : str, optional
        The mode in question; without one only the baseline is told of.

    Returns
    -------
    str
        One sentence, with the numbers.

    Examples
    --------
    >>> rows = {
    ...     "learn2synth": {"mean": "0.745", "sd_seeds": "0.004", "n_seeds": "3", "difference": "0.017",
    ...         "ci_low": "0.005", "ci_high": "0.029", "n_participants": "3"},
    ...     "synthseg": {"mean": "0.728", "sd_seeds": "n/a", "n_seeds": "1"}}
    >>> print(answer("T1w", rows, "synthseg", "learn2synth"))  # doctest: +NORMALIZE_WHITESPACE
    On T1w, learn2synth reached a mean Dice of 0.745 (SD over 3 seeds 0.004), synthseg 0.728 (one
    seed): learning the synthesis gained 0.017 (95 % interval 0.005 to 0.029, 3 participants).
    """
    base = _reached(rows.get(baseline))
    if focus is None:
        return (
            f"On {contrast}, {baseline} reached a mean Dice of {base or 'nothing known'}; there is "
            "no other mode to compare it with."
        )
    row = rows.get(focus)
    reached = _reached(row)
    if row is None or reached is None:
        rest = f"; {baseline} reached a mean Dice of {base}" if base else ""
        return f"On {contrast}, there is no result of {focus}{rest}."
    beginning = f"On {contrast}, {focus} reached a mean Dice of {reached}"
    if base is None:
        return f"{beginning}; there is no result of {baseline} to compare it with."
    learned = (focus, baseline) == (_LEARNED, "synthseg")
    subject = "learning the synthesis" if learned else focus
    return f"{beginning}, {baseline} {base}: {difference_in_words(row, subject)}."


def difference_in_words(row: _Row, subject: str) -> str:
    """Say what a row's difference from the baseline amounts to, and how sure it is."""
    difference, low, high = (to_number(row[key]) for key in ("difference", "ci_low", "ci_high"))
    participants = _counted(row.get("n_participants", ""), "participant")
    if difference != difference:
        return "they have no image in common to be compared on"
    if low != low or high != high:
        verb = "gained" if difference > 0 else "lost"
        return (
            f"{subject} {verb} {abs(difference):.3f} on {participants}, which allows no interval "
            "and no conclusion for others"
        )
    if low <= 0 <= high:
        return (
            f"the difference of {_signed(difference)} cannot be told from chance (the 95 % "
            f"interval, {_signed(low)} to {_signed(high)}, includes 0; {participants})"
        )
    verb = "gained" if difference > 0 else "lost"
    ends = sorted((abs(low), abs(high)))
    return (
        f"{subject} {verb} {abs(difference):.3f} (95 % interval {ends[0]:.3f} to {ends[1]:.3f}, "
        f"{participants})"
    )


def standing(row: _Row | None) -> str:
    """``better``, ``worse`` or ``unclear`` beside the baseline; empty without a difference.

    >>> standing({"difference": "0.1", "ci_low": "0.05", "ci_high": "0.15"})
    'better'
    """
    if row is None or to_number(row["difference"]) != to_number(row["difference"]):
        return ""
    low, high = to_number(row["ci_low"]), to_number(row["ci_high"])
    if low > 0:
        return "better"
    return "worse" if high < 0 else "unclear"


def caveats(
    *, roles: Sequence[str], seeds: int, participants: Mapping[str, int], failed: int, runs: int
) -> list[str]:
    """Say what a reader must know before believing a difference.

    Parameters
    ----------
    roles : sequence of str
        Roles of the participants that were judged on.
    seeds : int
        Most seeds that any mode was trained with.
    participants : mapping
        Contrast to the number of participants.
    failed, runs : int
        Trainings that failed, and all.

    Returns
    -------
    list of str
        Sentences; empty if there is nothing to say.
    """
    found = []
    if "validate" in roles:
        who = "The participants" if set(roles) == {"validate"} else "Some of the participants"
        found.append(
            f"{who} judged on also chose which weights of each training were kept. Their values are "
            "too good, for every mode; give test participants to know how good."
        )
    if seeds <= 1:
        found.append(
            "Each mode was trained with one seed only. How much a second training would differ is "
            "not known, and the intervals do not tell."
        )
    few = [name for name, count in participants.items() if count == 1]
    if few:
        found.append(
            f"On {', '.join(few)} there is one participant only: no interval can be given, and no "
            "difference holds for others."
        )
    elif participants and min(participants.values()) < 5:
        found.append(
            f"There are {min(participants.values())} participants"
            f"{' on some contrasts' if len(set(participants.values())) > 1 else ''}: intervals rest "
            "on the assumption that differences are normally distributed."
        )
    if failed:
        found.append(f"{failed} of {_counted(str(runs), 'training')} failed; see the runs.")
    return found


def _reached(row: _Row | None) -> str | None:
    """Mean and spread over seeds; None without a value."""
    mean, spread = (to_number(row[key]) if row else float("nan") for key in ("mean", "sd_seeds"))
    if row is None or mean != mean:
        return None
    seeds = row.get("n_seeds", "")
    if spread != spread:
        return f"{mean:.3f}" + (" (one seed)" if seeds == "1" else "")
    return f"{mean:.3f} (SD over {seeds} seeds {spread:.3f})"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _counted(count: str, noun: str) -> str:
    if count == "1":
        return f"one {noun}"
    return f"{count or 'an unknown number of'} {noun}s"
