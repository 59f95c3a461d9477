"""What a comparison of trainings found, in sentences."""

from collections.abc import Mapping, Sequence

from .tables import to_number

__all__ = ["answer", "caveats", "difference_in_words", "focus_of", "standing", "was_learned"]

_LEARNED = "learn2synth"
_FEW_PARTICIPANTS = 5
_Row = Mapping[str, str]


def focus_of(modes: Sequence[str], baseline: str) -> str | None:
    """Mode that the first sentence is about: learn2synth, or the first that is no baseline.

    >>> focus_of(["synthseg", "mixed", "learn2synth"], "synthseg")
    'learn2synth'
    """
    others = [mode for mode in modes if mode != baseline]
    return _LEARNED if _LEARNED in others else (others[0] if others else None)


def was_learned(runs: Sequence[_Row], mode: str | None) -> bool:
    """Whether all trainings of a mode stepped the synthesis, as far as that is known.

    >>> was_learned([{"mode": "learn2synth", "hypergradient_steps": "0"}], "learn2synth")
    False
    """
    return not any(run["mode"] == mode and _stepped(run) == 0 for run in runs)


def answer(
    contrast: str,
    rows: Mapping[str, _Row],
    baseline: str,
    focus: str | None,
    *,
    learned: bool = True,
) -> str:
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
    learned : bool, default=True
        Whether the synthesis was changed at all (:func:`was_learned`); only then a difference is
        put down to learning it.

    Returns
    -------
    str
        One sentence, with the numbers.

    Examples
    --------
    >>> rows = {
    ...     "learn2synth": {"mean": "0.745", "sd_seeds": "0.004", "n_seeds": "3", "difference": "0.017",
    ...         "ci_low": "0.005", "ci_high": "0.029", "n_participants": "3"},
    ...     "synthseg": {"mean": "0.728", "sd_seeds": "0.003", "n_seeds": "3"}}
    >>> print(answer("T1w", rows, "synthseg", "learn2synth"))  # doctest: +NORMALIZE_WHITESPACE
    On T1w, learn2synth reached a mean Dice of 0.745 (SD over 3 seeds 0.004), synthseg 0.728 (SD
    over 3 seeds 0.003): learning the synthesis gained 0.017 (95 % interval 0.005 to 0.029, 3 participants).
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
    same = (focus, baseline) == (_LEARNED, "synthseg")
    subject = "learning the synthesis" if same and learned else focus
    words = difference_in_words(row, subject, once=_trained_once(rows, (focus, baseline)))
    return f"{beginning}, {baseline} {base}: {words}."


def difference_in_words(row: _Row, subject: str, *, once: Sequence[str] = ()) -> str:
    """Say what a row's difference from the baseline amounts to, and how sure it is.

    Parameters
    ----------
    row : mapping
        Row of ``summary.tsv``.
    subject : str
        What gained or lost.
    once : sequence of str
        Which of the two modes were trained with one seed: then nothing is gained or lost, because
        another training might have differed by as much.
    """
    difference, low, high = (to_number(row[key]) for key in ("difference", "ci_low", "ci_high"))
    participants = _counted(row.get("n_participants", ""), "participant")
    if difference != difference:
        return "they have no image in common to be compared on"
    if once:
        whose = "each" if len(once) > 1 else f"of {once[0]}"
        return (
            f"the difference of {_signed(difference)} ({participants}) is that of one training "
            f"{whose}, which cannot tell it from chance"
        )
    if low != low or high != high:
        return (
            f"the difference of {_signed(difference)} on {participants} allows no interval and no "
            "conclusion for others"
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
    """``better``, ``worse`` or ``unclear`` beside the baseline; empty without an interval.

    >>> standing({"ci_low": "0.05", "ci_high": "0.15"}), standing({"ci_low": "n/a", "ci_high": "n/a"})
    ('better', '')
    """
    low, high = (to_number(row[key]) if row else float("nan") for key in ("ci_low", "ci_high"))
    if low != low or high != high:
        return ""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "unclear"


def caveats(
    *,
    roles: Sequence[str],
    seeds: Mapping[str, int],
    participants: Mapping[str, tuple[int, int]],
    runs: Sequence[_Row],
) -> list[str]:
    """Say what a reader must know before believing a difference.

    Parameters
    ----------
    roles : sequence of str
        Roles of the participants that were judged on.
    seeds : mapping
        Mode to the number of seeds it has results of; without those that have none.
    participants : mapping
        Contrast to the number of participants that are compared, and of those judged on in any
        training.
    runs : sequence of mappings
        Rows of ``runs.tsv``.

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
    found += [*_on_seeds(seeds), *_on_participants(participants), *_on_learning(runs)]
    failed = sum(run["status"] != "done" for run in runs)
    if failed:
        found.append(f"{failed} of {_counted(str(len(runs)), 'training')} failed; see the runs.")
    return found


def _on_seeds(seeds: Mapping[str, int]) -> list[str]:
    once = [mode for mode, count in seeds.items() if count == 1]
    if once:
        who = "Each mode was" if len(once) == len(seeds) else f"{_listed(once)} "
        if len(once) < len(seeds):
            who += "was" if len(once) == 1 else "were"
        return [
            f"{who} trained with one seed only. How much a second training would differ is not "
            "known: there is no interval, and no difference can be told from chance."
        ]
    if seeds and min(seeds.values()) == 2:
        return ["Two seeds tell little of how much trainings differ, so that intervals are wide."]
    return []


def _on_participants(participants: Mapping[str, tuple[int, int]]) -> list[str]:
    found = []
    for contrast, (compared, judged) in participants.items():
        if compared < judged:
            found.append(
                f"On {contrast}, {compared} of {_counted(str(judged), 'participant')} can be "
                "compared; of the others some training has no value, because it failed or could "
                "not segment them."
            )
    alone = [contrast for contrast, (count, _) in participants.items() if count == 1]
    few = {
        contrast: count
        for contrast, (count, _) in participants.items()
        if 1 < count < _FEW_PARTICIPANTS
    }
    if alone:
        found.append(
            f"On {_listed(alone)} there is one participant only: no interval can be given, and no "
            "difference holds for others."
        )
    if few:
        where = "There are" if len(few) == len(participants) else f"On {_listed(list(few))} are"
        fewest, most = min(few.values()), max(few.values())
        number = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        found.append(
            f"{where} {number} participants: intervals rest on the assumption that differences are "
            "normally distributed."
        )
    return found


def _on_learning(runs: Sequence[_Row]) -> list[str]:
    found = []
    for mode in dict.fromkeys(run["mode"] for run in runs):
        steps = [_stepped(run) for run in runs if run["mode"] == mode]
        never = steps.count(0)
        if never:
            which = "No training" if never == len(steps) else f"{never} of {len(steps)} trainings"
            verb = "changed" if never == len(steps) else "never changed"
            found.append(
                f"{which} of {mode} {verb} its synthesis (no hypergradient step): what differs is "
                "not due to a learned synthesis. Train for more steps, or set a smaller "
                "training.theta_warmup_steps."
            )
    return found


def _stepped(run: _Row) -> float:
    return to_number(run.get("hypergradient_steps", ""))


def _trained_once(rows: Mapping[str, _Row], modes: Sequence[str]) -> list[str]:
    return [mode for mode in modes if rows[mode].get("n_seeds") == "1"]


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


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _counted(count: str, noun: str) -> str:
    if count == "1":
        return f"one {noun}"
    return f"{count or 'an unknown number of'} {noun}s"
