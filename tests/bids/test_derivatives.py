import os
import shutil
import threading

import pytest

from l2s_pydra.bids.derivatives import (
    dataset_path,
    derivative_path,
    desc_label,
    publish,
    write_json,
    write_text,
)
from l2s_pydra.bids.entities import parse_name
from l2s_pydra.errors import DatasetError, OutputError
from l2s_pydra.steps.outputs import DATASET_OUTPUTS, IMAGE_OUTPUTS


@pytest.mark.parametrize(
    ("image", "key", "expected"),
    [
        ("sub-01_T1w", "dseg", "sub-01/anat/sub-01_seg-x_desc-T1w_dseg.nii.gz"),
        ("sub-01_T2w", "dseg_tsv", "sub-01/anat/sub-01_seg-x_desc-T2w_dseg.tsv"),
        (
            "sub-01_ses-a_acq-b_ce-c_rec-d_run-02_FLAIR",
            "probseg",
            "sub-01/ses-a/anat/"
            "sub-01_ses-a_acq-b_ce-c_rec-d_run-02_seg-x_desc-FLAIR_probseg.nii.gz",
        ),
        (
            "sub-01_space-MNI_res-2_desc-preproc_T1w",
            "mask",
            "sub-01/anat/sub-01_space-MNI_res-2_label-brain_desc-preprocT1w_mask.nii.gz",
        ),
        ("sub-01_ses-a_T1w", "figure", "sub-01/figures/sub-01_ses-a_seg-x_desc-T1w_dseg.png"),
    ],
)
def test_path(image, key, expected):
    path = derivative_path(parse_name(image), IMAGE_OUTPUTS[key], segmentation="x")
    assert str(path) == expected


def test_paths_of_different_images_differ():
    images = ["sub-1_T1w", "sub-1_T2w", "sub-1_run-1_T1w", "sub-1_ses-1_T1w", "sub-1_acq-1_T1w"]
    paths = {
        derivative_path(parse_name(image), row, segmentation="x")
        for image in images
        for row in IMAGE_OUTPUTS.values()
    }
    assert len(paths) == len(images) * len(IMAGE_OUTPUTS)


def test_segmentation_must_be_a_label():
    with pytest.raises(DatasetError, match="'my-seg' cannot be the segmentation"):
        derivative_path(parse_name("sub-1_T1w"), IMAGE_OUTPUTS["dseg"], segmentation="my-seg")


def test_desc_label():
    assert desc_label({"suffix": "T1w", "desc": "preproc"}) == "preprocT1w"


def test_dataset_path():
    path = dataset_path(DATASET_OUTPUTS["run"], participant="sub-01", run="r")
    assert str(path) == "sub-01/log/r/l2s_pydra.toml"


@pytest.fixture
def stage(tmp_path):
    root = tmp_path / "stage"
    write_text(root / "sub-01" / "anat" / "a.txt", "one")
    write_text(root / ".bidsignore", "*.html\n")
    write_json(root / "b.json", {"ä": [1]})
    return root


def test_publish_and_publish_again(stage, tmp_path):
    output = tmp_path / "out"
    first = publish(stage, output)
    assert [path.relative_to(output).as_posix() for path in first.written] == [
        ".bidsignore",
        "b.json",
        "sub-01/anat/a.txt",
    ]
    assert first.unchanged == ()
    before = {path: path.stat().st_mtime_ns for path in first.written}
    second = publish(stage, output)
    assert second.written == ()
    assert second.unchanged == first.written
    assert {path: path.stat().st_mtime_ns for path in second.unchanged} == before


def test_publish_restores_what_was_deleted_and_replaces_what_changed(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output)
    (output / "b.json").unlink()
    shutil.rmtree(output / "sub-01")
    (output / ".bidsignore").write_text("*.HTML\n")
    (output / "of-others.txt").write_text("stays")
    assert len(publish(stage, output).written) == 3
    assert (output / "sub-01" / "anat" / "a.txt").read_text() == "one"
    assert (output / ".bidsignore").read_text() == "*.html\n"
    assert (output / "of-others.txt").read_text() == "stays"


def test_same_size_other_content_is_seen(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output)
    target, source = output / "sub-01/anat/a.txt", stage / "sub-01/anat/a.txt"
    source.write_text("two")
    os.utime(source, ns=(target.stat().st_atime_ns, target.stat().st_mtime_ns))
    publish(stage, output)
    assert target.read_text() == "two"


def test_a_reader_sees_the_old_or_the_new_file(tmp_path):
    stage, output = tmp_path / "stage", tmp_path / "out"
    versions = [letter * 1_000_000 for letter in "ab"]
    target = write_text(output / "x", versions[0])
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(target.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        write_text(stage / "x", versions[(turn + 1) % 2])
        publish(stage, output)
    done.set()
    reader.join()
    assert seen <= set(versions)
    assert [path.name for path in output.iterdir()] == ["x"]


def test_a_failed_copy_leaves_the_old_file_and_nothing_else(stage, tmp_path, monkeypatch):
    output = tmp_path / "out"
    publish(stage, output)
    write_text(stage / "b.json", "new")
    before = (output / "b.json").read_text()

    def half(source, target):
        target.write_text("n")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OutputError, match=r"b\.json: cannot be written \(No space left"):
        publish(stage, output)
    assert (output / "b.json").read_text() == before
    assert sorted(path.name for path in output.iterdir()) == [".bidsignore", "b.json", "sub-01"]


def test_a_link_in_the_output_is_replaced_not_followed(stage, tmp_path):
    # As in a DataLad data set, where the target is the protected copy of an earlier version.
    output = tmp_path / "out"
    publish(stage, output)
    kept = write_text(tmp_path / "store", "protected")
    (output / "b.json").unlink()
    (output / "b.json").symlink_to(kept)
    publish(stage, output)
    assert not (output / "b.json").is_symlink()
    assert kept.read_text() == "protected"


def test_files_get_the_usual_permissions(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output)
    (tmp_path / "usual").touch()
    assert (output / "b.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_nothing_staged(tmp_path):
    with pytest.raises(DatasetError, match="nothing to publish"):
        publish(tmp_path / "nowhere", tmp_path)


def test_a_file_where_a_folder_should_be(stage, tmp_path):
    output = tmp_path / "out"
    write_text(output / "sub-01", "in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        publish(stage, output)
