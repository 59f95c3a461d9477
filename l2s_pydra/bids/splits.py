"""Cross-validation: the same participants in other roles."""

import logging

import attrs

from ..errors import DatasetError
from .dataset import TrainingSet

__all__ = ["folds"]

_log = logging.getLogger(__name__)


def folds(training_set: TrainingSet, count: int) -> list[TrainingSet]:
    """Divide all labelled participants into folds, each of which is tested on once.

    Participants are sorted by name and dealt out in turn, so that folds differ in size by one at
    most. Of those who are not tested on, the ones whose turn to be tested on comes next validate;
    their share is that of ``training_set``, at least one. The others learn. All images of a
    participant have one role. Label maps of the validation and test participants of a fold are not
    synthesised from in it; those of all others are.

    Parameters
    ----------
    training_set : TrainingSet
        Its participants to learn from, to validate on and to test on take part.
    count : int
        Number of folds, 2 or more; as many as participants to leave one out at a time.

    Returns
    -------
    list of TrainingSet
        One for each fold.

    Raises
    ------
    DatasetError
        If there are too few participants: each fold needs one to test on, one to validate on and
        one to learn from.
    """
    pairs = (*training_set.learn, *training_set.validate, *training_set.test)
    people = sorted({image.participant for image, _ in pairs})
    total = len(people)
    if not 2 <= count <= total or total - -(-total // count) < 2:
        raise DatasetError(_too_few(total, count))
    share = _validation_share(training_set)
    result = []
    for fold in range(count):
        test = set(people[fold::count])
        # Whose turn to be tested on comes next is first.
        rest = sorted(
            (i for i, who in enumerate(people) if who not in test),
            key=lambda i: ((i - fold) % count, i),
        )
        size = min(max(1, round(share * len(rest))), len(rest) - 1)
        validate = {people[i] for i in rest[:size]}
        result.append(_in_roles(training_set, validate, test))
    return result


def _validation_share(training_set: TrainingSet) -> float:
    """Share of participants that validate among those that are not tested on."""
    learn, validate = (
        len({image.participant for image, _ in pairs})
        for pairs in (training_set.learn, training_set.validate)
    )
    return validate / max(learn + validate, 1)


def _in_roles(training_set: TrainingSet, validate: set[str], test: set[str]) -> TrainingSet:
    pairs = sorted(
        (*training_set.learn, *training_set.validate, *training_set.test),
        key=lambda pair: (pair[0].participant, pair[0].relative_path),
    )
    held_out = validate | test
    everyone = training_set.all_maps or training_set.label_maps
    maps = tuple(record for record in everyone if record.participant not in held_out)
    if everyone and not maps:
        _log.warning(
            "all label maps are of participants to validate or test on (%s); the learning "
            "participants' own remain",
            ", ".join(sorted(held_out)),
        )
    return attrs.evolve(
        training_set,
        learn=tuple(pair for pair in pairs if pair[0].participant not in held_out),
        validate=tuple(pair for pair in pairs if pair[0].participant in validate),
        test=tuple(pair for pair in pairs if pair[0].participant in test),
        test_participants=tuple(sorted(test)),
        label_maps=maps,
        maps_table=training_set.maps_table if maps else None,
    )


def _too_few(total: int, count: int) -> str:
    if total < 3:
        return (
            f"{total} labelled participant(s) are too few for a cross-validation; label at least "
            "3: one to learn from, one to validate on and one to test on"
        )
    if not 2 <= count <= total:
        return (
            f"{count} folds cannot be made of {total} labelled participants; "
            f"choose 2 to {total} folds"
        )
    return (
        f"{count} folds of {total} labelled participants leave one participant to learn from and "
        f"to validate on; choose {total} folds, or label more participants"
    )
