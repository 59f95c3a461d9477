import logging
from pathlib import Path

import attrs
import pytest

from l2s_pydra.bids.dataset import ImageRecord, TrainingSet
from l2s_pydra.bids.splits import folds
from l2s_pydra.errors import DatasetError


def pair(who, session="a"):
    name = f"sub-{who}/anat/sub-{who}_ses-{session}"
    image = ImageRecord.from_path(f"/data/{name}_T1w.nii", "/data")
    return image, Path(f"/labels/{name}_dseg.nii")


def label_map(who):
    return ImageRecord.from_path(f"/maps/sub-{who}/anat/sub-{who}_dseg.nii", "/maps")


def training_set(learn, validate, test="", maps=""):
    return TrainingSet(
        learn=tuple(map(pair, learn)),
        validate=tuple(map(pair, validate)),
        test=tuple(map(pair, test)),
        label_maps=tuple(map(label_map, maps)),
        real_table=Path("/labels/dseg.tsv"),
        maps_table=Path("/maps/dseg.tsv") if maps else None,
    )


def people(pairs):
    return {image.participant for image, _ in pairs}


@pytest.mark.parametrize(
    ("learn", "validate", "test", "count"),
    [
        ("abcdef", "gh", "ij", 5),
        ("abcdef", "gh", "ij", 3),
        ("abcdef", "gh", "", 8),
        ("a", "b", "c", 3),
        ("ab", "cd", "", 2),
        ("ab", "cdefgh", "", 4),
    ],
)
def test_everyone_is_tested_on_once(learn, validate, test, count):
    made = folds(training_set(learn, validate, test), count)
    everyone = {f"sub-{who}" for who in learn + validate + test}
    assert len(made) == count
    assert sorted(who for fold in made for who in people(fold.test)) == sorted(everyone)
    sizes = {len(people(fold.test)) for fold in made}
    assert max(sizes) - min(sizes) <= 1
    share = len(validate) / len(learn + validate)
    for fold in made:
        roles = [people(pairs) for pairs in (fold.learn, fold.validate, fold.test)]
        assert all(roles)
        assert set.union(*roles) == everyone
        assert sum(map(len, roles)) == len(everyone)
        rest = len(everyone) - len(roles[2])
        # As many as the share says, to the nearest participant, and someone is left to learn from.
        assert len(roles[1]) == pytest.approx(min(max(1, share * rest), rest - 1), abs=0.5)


def test_everyone_validates_about_as_often():
    made = folds(training_set("abcdef", "gh"), 4)
    times = {who: sum(f"sub-{who}" in people(fold.validate) for fold in made) for who in "abcdefgh"}
    assert set(times.values()) == {1}


def test_folds_do_not_depend_on_the_order():
    one, two = (folds(training_set(learn, "gh", "ij"), 4) for learn in ("abcdef", "fedcba"))
    assert one == two


def test_sessions_of_a_participant_stay_together():
    both = training_set("abc", "d")
    both = attrs.evolve(both, learn=(*both.learn, pair("d", "b"), pair("a", "b"), pair("b", "b")))
    for fold in folds(both, 2):
        roles = [people(pairs) for pairs in (fold.learn, fold.validate, fold.test)]
        assert sum(map(len, roles)) == 4
        pairs = (*fold.learn, *fold.validate, *fold.test)
        assert len(pairs) == len(set(pairs)) == 7


def test_pairs_stay_pairs():
    given = training_set("abc", "d", "e")
    labels_of = dict((*given.learn, *given.validate, *given.test))
    for fold in folds(given, 5):
        for image, labels in (*fold.learn, *fold.validate, *fold.test):
            assert labels_of[image] == labels


def test_label_maps_of_held_out_participants_are_left_out(caplog):
    made = folds(training_set("abc", "d", maps="abxy"), 4)
    for fold in made:
        held_out = people(fold.validate) | people(fold.test)
        expected = {f"sub-{who}" for who in "abxy"} - held_out
        assert {record.participant for record in fold.label_maps} == expected
        assert fold.maps_table == Path("/maps/dseg.tsv")
    assert not caplog.records
    # Those of the original validation and test participants come back where these learn.
    given = training_set("ab", "c", "d", maps="ab")
    given = attrs.evolve(given, all_maps=tuple(map(label_map, "abcdx")))
    for fold in folds(given, 4):
        expected = {"sub-x"} | people(fold.learn)
        assert {record.participant for record in fold.label_maps} == expected
        assert set(fold.test_participants) == people(fold.test)
    with caplog.at_level(logging.WARNING, "l2s_pydra"):
        made = folds(training_set("abc", "d", maps="a"), 4)
    assert sorted(len(fold.label_maps) for fold in made) == [0, 0, 1, 1]
    assert all((fold.maps_table is None) == (not fold.label_maps) for fold in made)
    assert "all label maps are of participants to validate or test on" in caplog.text


@pytest.mark.parametrize(
    ("learn", "validate", "count", "said"),
    [
        ("a", "b", 2, r"2 labelled participant\(s\) are too few .* at least 3"),
        ("abc", "d", 1, "choose 2 to 4 folds"),
        ("abc", "d", 5, "choose 2 to 4 folds"),
        ("ab", "c", 2, "leave one participant to learn from and to validate on; choose 3 folds"),
    ],
)
def test_too_few_participants(learn, validate, count, said):
    with pytest.raises(DatasetError, match=said) as error:
        folds(training_set(learn, validate), count)
    assert "\n" not in str(error.value)
