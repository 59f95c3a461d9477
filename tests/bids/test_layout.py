"""The index kept in a folder; what it finds is tested in test_images.py."""

import pytest

from l2s_pydra.bids.images import find_images
from l2s_pydra.bids_examples.make_varied import make_many
from l2s_pydra.errors import DatasetError


@pytest.fixture
def dataset(make_dataset):
    images = ["sub-01/anat/sub-01_run-1_T1w.nii", "sub-01/anat/sub-01_run-2_T1w.nii"]
    others = ["sub-01/anat/sub-01_T1w.json", "sub-02/anat/sub-02_acq-a_T1w.nii"]
    return make_dataset("ds", [*images, *others, "sub-02/anat/sub-02_T1w.nii.gz"])


def test_database_is_complete_and_reused(dataset, tmp_path):
    database = tmp_path / "db"
    assert len(find_images(dataset, participants=["02"], database_dir=database)) == 2
    (dataset / "sub-02/anat/sub-02_acq-new_T1w.nii").touch()
    assert len(find_images(dataset, database_dir=database)) == 4
    assert len(find_images(dataset)) == 5


def test_database_of_another_data_set(dataset, make_dataset, tmp_path):
    database = tmp_path / "db"
    find_images(dataset, database_dir=database)
    other = make_dataset("other", ["sub-01/anat/sub-01_T1w.nii"])
    with pytest.raises(DatasetError, match=r"is the index of .*ds, not of .*other"):
        find_images(other, database_dir=database)


def test_database_out_of_date(dataset, tmp_path):
    database = tmp_path / "db"
    find_images(dataset, database_dir=database)
    (dataset / "sub-02/anat/sub-02_T1w.nii.gz").unlink()
    with pytest.raises(DatasetError, match="delete that folder"):
        find_images(dataset, database_dir=database)


def test_database_broken(dataset, tmp_path):
    (tmp_path / "layout_index.sqlite").write_text("no database")
    with pytest.raises(DatasetError, match="cannot index"):
        find_images(dataset, database_dir=tmp_path)


def test_database_that_cannot_be_kept(dataset, tmp_path):
    (tmp_path / "db").touch()
    with pytest.raises(DatasetError, match="give a folder that can be written"):
        find_images(dataset, database_dir=tmp_path / "db")


def test_database_interrupted(dataset, tmp_path, monkeypatch):
    from bids.layout import BIDSLayoutIndexer

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BIDSLayoutIndexer, "_index_dir", interrupt)
        with pytest.raises(KeyboardInterrupt):
            find_images(dataset, database_dir=tmp_path / "db")
    assert len(find_images(dataset, database_dir=tmp_path / "db")) == 4
    assert [path.name for path in (tmp_path / "db").iterdir()] == ["layout_index.sqlite"]


def test_database_through_a_link(dataset, tmp_path):
    from bids.layout import BIDSLayout

    (tmp_path / "link").symlink_to(dataset)
    layout = BIDSLayout(tmp_path / "link", validate=False, database_path=tmp_path / "db")
    layout.session.close()
    layout.connection_manager.engine.dispose()
    found = find_images(tmp_path / "link", database_dir=tmp_path / "db")
    assert len(found) == 4
    assert all(record.path.is_relative_to(dataset) for record in found)


def test_database_made_by_pybids(dataset, tmp_path):
    from bids.layout import BIDSLayout

    layout = BIDSLayout(dataset, validate=False, database_path=tmp_path / "db")
    layout.session.close()
    layout.connection_manager.engine.dispose()
    assert len(find_images(dataset, database_dir=tmp_path / "db")) == 4


@pytest.mark.parametrize(("participants", "count"), [(None, 6), (["00002", "00003"], 2)])
def test_nothing_is_indexed_that_nobody_asks_for(tmp_path, monkeypatch, participants, count):
    from bids.layout import BIDSLayoutIndexer

    root = make_many(tmp_path / "many", participants=6)
    assert len([path for path in root.rglob("*") if path.is_file()]) == 6 * 10 + 3
    indexed, original = [], BIDSLayoutIndexer._index_file

    def index(self, path, *rest):
        indexed.append(path)
        return original(self, path, *rest)

    monkeypatch.setattr(BIDSLayoutIndexer, "_index_file", index)
    assert len(find_images(root, participants=participants)) == len(indexed) == count
