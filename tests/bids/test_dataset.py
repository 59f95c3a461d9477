import logging

import pytest

from l2s_pydra.bids.dataset import build_synthetic_set, build_training_set, read_splits
from l2s_pydra.errors import DatasetError, NoImageError

PEOPLE = ("01", "02", "03", "04")


@pytest.fixture
def raw(make_dataset):
    root = make_dataset("ds", [f"sub-{who}/anat/sub-{who}_T1w.nii.gz" for who in PEOPLE])
    (root / "participants.tsv").write_text(
        "participant_id\tsplit\nsub-01\ttrain\nsub-02\ttrain\nsub-03\tval\nsub-04\ttest\n"
    )
    return root


@pytest.fixture
def labels(make_dataset):
    names = [f"sub-{who}/anat/sub-{who}_desc-manual_dseg.nii.gz" for who in PEOPLE]
    return make_dataset("labels", [*names, "desc-manual_dseg.tsv"], kind="derivative")


def roles(training_set):
    return [
        [image.participant for image, _ in side]
        for side in (training_set.learn, training_set.validate)
    ]


def judges(training_set):
    return [image.participant for image, _ in training_set.test]


@pytest.mark.parametrize(
    ("word", "role"),
    [
        ("train", "learn"),
        ("Training", "learn"),
        ("learn", "learn"),
        ("val", "validate"),
        ("valid", "validate"),
        ("validation", "validate"),
        ("validate", "validate"),
        ("test", "test"),
        ("pilot", "pilot"),
    ],
)
def test_splits(tmp_path, word, role):
    table = tmp_path / "participants.tsv"
    table.write_text(f"\ufeffparticipant_id\tage\tsplit\nsub-1\t3\t{word}\n2\t3\tn/a\nsub-3\n")
    assert read_splits(tmp_path) == {"sub-1": role}


def test_no_splits(tmp_path):
    assert read_splits(tmp_path) == {}
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t3\n")
    assert read_splits(tmp_path) == {}
    (tmp_path / "participants.tsv").write_bytes(b"participant_id\tsplit\nsub-1\t\xff\n")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_splits(tmp_path)


def test_roles_from_the_table(raw, labels):
    training_set = build_training_set(raw, labels)
    assert roles(training_set) == [["sub-01", "sub-02"], ["sub-03"]]
    image, path = training_set.validate[0]
    assert path == labels / f"{image.participant}/anat/{image.participant}_desc-manual_dseg.nii.gz"
    assert training_set.real_table == labels / "desc-manual_dseg.tsv"
    assert (training_set.label_maps, training_set.maps_table) == ((), None)
    assert judges(training_set) == ["sub-04"]
    assert training_set.test[0][1] == labels / "sub-04/anat/sub-04_desc-manual_dseg.nii.gz"


@pytest.mark.parametrize(
    ("learn", "validate", "expected"),
    [
        (["01"], ["sub-02"], [["sub-01"], ["sub-02"]]),
        (["01", "04"], ["02"], [["sub-01", "sub-04"], ["sub-02"]]),
        (None, ["02"], [["sub-01"], ["sub-02"]]),
        (["sub-02"], None, [["sub-02"], ["sub-03"]]),
    ],
)
def test_roles_from_the_arguments(raw, labels, learn, validate, expected):
    training_set = build_training_set(
        raw, labels, learn_participants=learn, validation_participants=validate
    )
    assert roles(training_set) == expected


def test_without_splits_everyone_else_learns(raw, labels):
    (raw / "participants.tsv").unlink()
    training_set = build_training_set(raw, labels, validation_participants=["01"])
    assert roles(training_set) == [["sub-02", "sub-03", "sub-04"], ["sub-01"]]


def test_everyone_else_does_not_include_the_test_split(raw, labels):
    (raw / "participants.tsv").write_text("participant_id\tsplit\nsub-04\ttest\n")
    training_set = build_training_set(raw, labels, validation_participants=["01"])
    assert roles(training_set) == [["sub-02", "sub-03"], ["sub-01"]]


def test_participants_in_the_table_may_be_absent(raw, labels):
    with (raw / "participants.tsv").open("a") as file:
        file.write("sub-05\ttrain\n")
    assert roles(build_training_set(raw, labels)) == [["sub-01", "sub-02"], ["sub-03"]]


def test_every_image_of_a_participant_has_its_role(make_dataset):
    raw = make_dataset(
        "ds",
        [
            "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii",
            "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii",
            "sub-2/ses-a/anat/sub-2_ses-a_T1w.nii",
        ],
    )
    labels = make_dataset(
        "labels",
        [
            "sub-1/ses-a/anat/sub-1_ses-a_dseg.nii",
            "sub-1/ses-b/anat/sub-1_ses-b_dseg.nii",
            "sub-2/ses-a/anat/sub-2_ses-a_dseg.nii",
            "dseg.tsv",
        ],
    )
    training_set = build_training_set(raw, labels, validation_participants=["2"])
    assert roles(training_set) == [["sub-1", "sub-1"], ["sub-2"]]
    one = build_training_set(raw, labels, validation_participants=["2"], sessions=["a"])
    assert roles(one) == [["sub-1"], ["sub-2"]]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"test_participants": ["sub-01"]}, ([["sub-02"], ["sub-03"]], ["sub-01"])),
        (
            {"test_participants": ["03", "01"], "validation_participants": ["04"]},
            ([["sub-02"], ["sub-04"]], ["sub-01", "sub-03"]),
        ),
        ({"learn_participants": ["04"]}, ([["sub-04"], ["sub-03"]], [])),
        ({"validation_participants": ["04"]}, ([["sub-01", "sub-02"], ["sub-04"]], [])),
    ],
)
def test_arguments_come_before_the_table(raw, labels, asked, expected):
    training_set = build_training_set(raw, labels, **asked)
    assert (roles(training_set), judges(training_set)) == expected


def test_everyone_else_does_not_include_the_test_participants(raw, labels):
    (raw / "participants.tsv").unlink()
    training_set = build_training_set(
        raw, labels, validation_participants=["01"], test_participants=["02"]
    )
    assert roles(training_set) == [["sub-03", "sub-04"], ["sub-01"]]
    assert judges(training_set) == ["sub-02"]


def test_test_participants_of_the_table_need_no_labels(raw, labels, caplog):
    (labels / "sub-04/anat/sub-04_desc-manual_dseg.nii.gz").unlink()
    assert judges(build_training_set(raw, labels)) == []
    assert not caplog.text
    with pytest.raises(DatasetError, match=r"no label map of the test participants \(sub-04\)"):
        build_training_set(raw, labels, test_participants=["04"])
    found = build_training_set(raw, labels, test_participants=["04"], test_without_labels=True)
    assert (found.test, found.test_participants) == ((), ("sub-04",))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"learn_participants": ["01"], "validation_participants": ["sub-01"]},
            "sub-01 is asked for both to learn from and to validate on; choose one role",
        ),
        (
            {"learn_participants": ["01", "02"], "test_participants": ["sub-01", "02"]},
            "sub-01, sub-02 are asked for both to learn from and to test on; choose one role",
        ),
        (
            {"validation_participants": ["01", "02"], "test_participants": ["02"]},
            "sub-02 is asked for both to validate on and to test on; choose one role",
        ),
        (
            {
                "learn_participants": ["01"],
                "validation_participants": ["01", "02"],
                "test_participants": ["02"],
            },
            "sub-01 is asked for both to learn from and to validate on; sub-02 is asked for both "
            "to validate on and to test on; choose one role",
        ),
    ],
)
def test_one_participant_in_two_roles(raw, labels, asked, said):
    with pytest.raises(DatasetError) as error:
        build_training_set(raw, labels, **asked)
    assert str(error.value) == f"{said} for each participant"


def test_nobody_to_validate_on(raw, labels):
    (raw / "participants.tsv").unlink()
    with pytest.raises(DatasetError, match=r"no participant to validate on; give .*split"):
        build_training_set(raw, labels)
    with pytest.raises(DatasetError, match="no participant to validate on"):
        build_training_set(raw, labels, learn_participants=["01"])


def test_nobody_to_learn_from(raw, labels):
    (raw / "participants.tsv").write_text("participant_id\tsplit\nsub-04\tval\n")
    with pytest.raises(DatasetError, match="no participant to learn from"):
        build_training_set(raw, labels)


def test_images_without_labels_are_left_out(raw, labels, caplog):
    (labels / "sub-02/anat/sub-02_desc-manual_dseg.nii.gz").unlink()
    with caplog.at_level(logging.WARNING, "l2s_pydra"):
        assert roles(build_training_set(raw, labels)) == [["sub-01"], ["sub-03"]]
    assert "sub-02_T1w" in caplog.text


def test_a_role_without_labels(raw, labels):
    (labels / "sub-03/anat/sub-03_desc-manual_dseg.nii.gz").unlink()
    with pytest.raises(DatasetError, match="no label map of the validation participants"):
        build_training_set(raw, labels)


def test_labels_of_other_images(raw, make_dataset):
    labels = make_dataset("labels", ["sub-01/anat/sub-01_space-MNI_dseg.nii"])
    with pytest.raises(DatasetError, match=r"files such as sub-01/anat/sub-01_desc-manual_dseg"):
        build_training_set(raw, labels)


def test_no_table(raw, labels):
    (labels / "desc-manual_dseg.tsv").unlink()
    with pytest.raises(DatasetError, match="has no label table"):
        build_training_set(raw, labels)


def test_no_image(raw, labels):
    with pytest.raises(NoImageError):
        build_training_set(raw, labels, suffixes=["FLAIR"])


def test_label_maps_of_held_out_participants_are_never_used(raw, labels, caplog):
    with caplog.at_level(logging.WARNING, "l2s_pydra"):
        training_set = build_training_set(raw, labels, labels)
    assert [r.participant for r in training_set.label_maps] == ["sub-01", "sub-02"]
    assert training_set.maps_table == labels / "desc-manual_dseg.tsv"
    assert "2 label map(s) of validation or test participants left out" in caplog.text
    training_set = build_training_set(raw, labels, labels, test_participants=["01"])
    assert [r.participant for r in training_set.label_maps] == ["sub-02"]


def test_label_maps_of_held_out_participants_only(raw, labels, make_dataset):
    maps = make_dataset("maps", ["sub-03/anat/sub-03_dseg.nii", "dseg.tsv"])
    with pytest.raises(DatasetError, match="all label maps are of validation or test"):
        build_training_set(raw, labels, maps)
    found = build_training_set(raw, labels, maps, any_maps=True)
    assert found.label_maps == ()
    assert [record.participant for record in found.all_maps] == ["sub-03"]
    assert found.maps_table == maps / "dseg.tsv"


def test_label_maps_of_strangers(raw, labels, make_dataset):
    maps = make_dataset(
        "maps", ["sub-x/anat/sub-x_desc-a_dseg.nii", "sub-x/anat/sub-x_desc-b_dseg.nii", "dseg.tsv"]
    )
    with pytest.raises(DatasetError, match="--label-maps-desc"):
        build_training_set(raw, labels, maps)
    training_set = build_training_set(raw, labels, maps, label_maps_desc="b")
    assert [r.name for r in training_set.label_maps] == ["sub-x_desc-b_dseg"]
    assert training_set.maps_table == maps / "dseg.tsv"


def heads(records):
    return [record.participant for record in records]


@pytest.fixture
def maps(make_dataset):
    """``maps(count)``: a derivative with label maps of so many heads."""

    def maps(count):
        names = [f"sub-{i:02d}/anat/sub-{i:02d}_desc-head_dseg.nii.gz" for i in range(count)]
        return make_dataset("maps", [*names, "desc-head_dseg.tsv"], kind="derivative")

    return maps


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (9, 1), (20, 2), (35, 3)])
def test_a_tenth_of_the_label_maps_is_held_out(maps, count, held_out):
    found = build_synthetic_set(maps(count))
    everyone = [f"sub-{i:02d}" for i in range(count)]
    assert heads(found.label_maps) == everyone[:-held_out]
    assert heads(found.validation_maps) == everyone[-held_out:]
    assert (found.learn, found.validate, found.test) == ((), (), ())
    assert found.real_table.name == "desc-head_dseg.tsv"
    assert found.maps_table is None


def test_whose_label_maps_are_held_out_can_be_said(maps, tmp_path):
    folder = maps(4)
    found = build_synthetic_set(folder, validation_participants=["00", "sub-02"])
    assert heads(found.label_maps) == ["sub-01", "sub-03"]
    assert heads(found.validation_maps) == ["sub-00", "sub-02"]
    found = build_synthetic_set(folder, learn_participants=["03"], target_labels=tmp_path / "t.tsv")
    assert heads(found.label_maps) == ["sub-03"]
    assert heads(found.validation_maps) == ["sub-02"]
    assert (found.real_table, found.maps_table.name) == (tmp_path / "t.tsv", "desc-head_dseg.tsv")


def test_label_maps_that_do_not_suffice(maps):
    folder = maps(2)
    with pytest.raises(DatasetError, match="no label map of sub-07"):
        build_synthetic_set(folder, validation_participants=["07"])
    with pytest.raises(DatasetError, match="choose one role"):
        build_synthetic_set(folder, learn_participants=["01"], validation_participants=["00", "01"])
    with pytest.raises(DatasetError, match="at least two are needed"):
        build_synthetic_set(folder, validation_participants=["00", "01"])
