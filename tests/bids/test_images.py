import json
import logging

import pytest

from l2s_pydra.bids.images import find_images, read_filters
from l2s_pydra.errors import DatasetError, NoImageError

FILES = [
    "sub-01/ses-a/anat/sub-01_ses-a_run-01_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_run-01_T1w.json",
    "sub-01/ses-a/anat/sub-01_ses-a_run-02_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_T2w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_acq-fast_T1w.nii",
    "sub-01/ses-b/func/sub-01_ses-b_task-rest_bold.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
    "sub-02/anat/sub-02_part-phase_T1w.nii.gz",
    "sub-03/anat/sub-03_T2w.nii.gz",
    "sourcedata/sub-04/anat/sub-04_T1w.nii.gz",
    "derivatives/other/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
    "participants.tsv",
]


@pytest.fixture
def dataset(make_dataset):
    return make_dataset("ds", FILES)


def names(records):
    return [record.name for record in records]


def test_finds_raw_magnitude_images_sorted(dataset):
    assert names(find_images(dataset)) == [
        "sub-01_ses-a_run-01_T1w",
        "sub-01_ses-a_run-02_T1w",
        "sub-01_ses-b_acq-fast_T1w",
        "sub-02_T1w",
    ]


def test_record_is_complete(dataset):
    record = find_images(dataset, participants=["01"], sessions=["a"])[0]
    assert record.path == dataset / FILES[0]
    assert record.relative_path == FILES[0]
    assert record.entities == {"subject": "01", "session": "a", "run": "01", "suffix": "T1w"}


@pytest.mark.parametrize("label", ["01", "sub-01"])
@pytest.mark.parametrize("session", ["b", "ses-b"])
def test_participants_and_sessions_with_and_without_key(dataset, label, session):
    found = find_images(dataset, participants=[label], sessions=[session])
    assert names(found) == ["sub-01_ses-b_acq-fast_T1w"]


def test_a_participant_does_not_bring_those_whose_label_it_begins(make_dataset):
    files = ["sub-1/anat/sub-1_T1w.nii", "sub-10/anat/sub-10_T1w.nii"]
    assert names(find_images(make_dataset("ds", files), participants=["1"])) == ["sub-1_T1w"]


def test_several_suffixes(dataset):
    found = find_images(dataset, participants=["01"], suffixes=["T2w", "T1w"])
    assert [record.suffix for record in found].count("T2w") == 1
    assert len(found) == 4


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"t1w": {"acquisition": None}}, 3),
        ({"t1w": {"acquisition": "*"}}, 1),
        ({"t1w": {"acquisition": ["fast", None]}}, 4),
        ({"t1w": {"run": 1}}, 1),
        ({"t1w": {"run": [1, 2]}}, 2),
        ({"t1w": {"run": "01"}}, 1),
        ({"anat": {"session": None}}, 1),
        ({"anat": {"session": "a"}, "t1w": {"session": "b"}}, 1),
        ({"t1w": {"extension": "nii"}}, 1),
        ({"t1w": {"part": "phase"}}, 1),
        ({"t1w": {"suffix": "T2w"}}, 2),
        ({"bold": {"task": "rest"}, "t2w": {"session": None}}, 4),
    ],
)
def test_filters(dataset, tmp_path, filters, expected):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps(filters))
    assert len(find_images(dataset, filters=read_filters(path))) == expected


@pytest.mark.parametrize("text", ["{", "[]", '{"t1w": "x"}', '"t1w"', "null"])
def test_filter_file_of_another_form(tmp_path, text):
    path = tmp_path / "filter.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match="filter file"):
        read_filters(path)


def test_filter_file_missing(tmp_path):
    with pytest.raises(DatasetError, match="filter file"):
        read_filters(tmp_path / "filter.json")


def test_filter_on_an_entity_that_does_not_exist(dataset):
    with pytest.raises(DatasetError, match=r"acquisitoin.*Did you mean.*acquisition"):
        find_images(dataset, filters={"t1w": {"acquisitoin": "x"}})


@pytest.mark.parametrize(
    "place", ["sub-99/ses-z/ds", "anat/ds", "a b/d#s%20[1]", "sub-99_acq-x_desc-y_T1w.nii/ds"]
)
def test_folders_above_the_data_set_do_not_matter(make_dataset, place):
    files = ["sub-01/anat/sub-01_T1w.nii.gz", "sub-01/func/sub-01_task-x_bold.nii.gz"]
    (record,) = find_images(make_dataset(place, files), filters={"t1w": {"session": None}})
    assert record.entities == {"subject": "01", "suffix": "T1w"}


def test_linked_participants_and_dangling_images(make_dataset, tmp_path):
    # As in a DataLad data set, whose images are links that may not have been fetched.
    root = make_dataset("ds", [])
    (tmp_path / "store" / "anat").mkdir(parents=True)
    (root / "sub-01").symlink_to(tmp_path / "store")
    image = tmp_path / "store" / "anat" / "sub-01_T1w.nii.gz"
    image.symlink_to(tmp_path / "absent")
    assert names(find_images(root)) == ["sub-01_T1w"]


def test_relative_root(dataset, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    assert all(record.path.is_absolute() for record in find_images("ds/../ds"))


def test_a_derivative_can_be_the_input(make_dataset):
    files = ["sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"]
    (record,) = find_images(make_dataset("ds", files, kind="derivative"))
    assert record.entities["desc"] == "preproc"


def test_a_derivative_of_before_bids_1_4(make_dataset):
    root = make_dataset("ds", ["sub-01/anat/sub-01_desc-preproc_T1w.nii.gz"])
    (root / "dataset_description.json").write_text(
        '{"DatasetType": "derivative", "PipelineDescription": {"Name": "old"}}'
    )
    assert names(find_images(root)) == ["sub-01_desc-preproc_T1w"]


def test_missing_folder(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        find_images(tmp_path / "nowhere")


def test_no_dataset_description(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset_description\.json: missing"):
        find_images(tmp_path)


def test_broken_dataset_description(dataset):
    (dataset / "dataset_description.json").write_text("{")
    with pytest.raises(DatasetError, match="correct the JSON"):
        find_images(dataset)


def test_no_participant_at_all(make_dataset):
    with pytest.raises(DatasetError, match="no sub-<label> folder"):
        find_images(make_dataset("ds", ["README"]))


def test_participant_not_in_the_data_set(dataset):
    with pytest.raises(DatasetError, match="no participant 7; available: 01, 02, 03"):
        find_images(dataset, participants=["7", "01"])


def test_all_participants_without_a_match_are_reported(dataset, caplog):
    """An archive has to know of whom there is nothing."""
    with caplog.at_level(logging.WARNING, "l2s_pydra"):
        find_images(dataset)
    assert "no T1w image matches for participant 03" in caplog.text


def test_participant_without_a_match_is_reported(dataset, caplog):
    with caplog.at_level(logging.WARNING, "l2s_pydra"):
        found = find_images(dataset, participants=["02", "03"])
    assert names(found) == ["sub-02_T1w"]
    assert "03" in caplog.text


def test_no_image_says_what_there_is(dataset):
    with pytest.raises(NoImageError, match=r"no FLAIR image.*5 T1w, 2 T2w"):
        find_images(dataset, suffixes=["FLAIR"])
    with pytest.raises(NoImageError, match="session c"):
        find_images(dataset, sessions=["c"])
    with pytest.raises(NoImageError, match="relax the filters"):
        find_images(dataset, filters={"t1w": {"acquisition": "slow"}})


def test_same_entities_twice(make_dataset):
    root = make_dataset("ds", ["sub-01/anat/sub-01_T1w.nii", "sub-01/anat/sub-01_T1w.nii.gz"])
    with pytest.raises(DatasetError, match="same entities"):
        find_images(root)
    assert len(find_images(root, filters={"t1w": {"extension": ".nii.gz"}})) == 1


def test_name_without_participant_is_left_out(make_dataset, caplog):
    root = make_dataset("ds", ["sub-01/anat/sub-01_T1w.nii", "sub-01/anat/foo_T1w.nii"])
    with caplog.at_level(logging.WARNING, "l2s_pydra"):
        assert names(find_images(root)) == ["sub-01_T1w"]
    assert "foo_T1w" in caplog.text
