"""What is done already: decided by content."""

import pytest

from l2s_pydra.bids.checksums import Checksums, sha256_of
from l2s_pydra.bids.entities import ImageRecord
from l2s_pydra.bids.manifest import FileEntry, ImageEntry, Manifest
from l2s_pydra.workflows.reuse import Reuse, decide

MADE_FROM = {
    "image": "i",
    "weights": "w",
    "config": "c",
    "labels": "l",
    "probseg": False,
    "keep_largest": None,
    "code_version": "1",
}


def entry(**changes):
    return ImageEntry(
        source="s", segmentation="x", run="r", made_from={**MADE_FROM, **changes}, outputs=["a"]
    )


def test_nothing_recorded():
    assert decide(MADE_FROM, None).status == "new"


def test_nothing_changed():
    decision = decide(MADE_FROM, entry())
    assert decision.is_done
    assert decision.status == "done"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "other"}, "the image changed"),
        ({"weights": "other", "config": "other"}, "the model changed"),
        ({"config": "other"}, "the settings of the model changed"),
        ({"labels": "other"}, "the label table of the model changed"),
        ({"code_version": "0"}, "the software changed"),
        ({"probseg": True}, "--probseg changed from True to False"),
        ({"keep_largest": ["all"]}, "--keep-largest changed from ['all'] to None"),
        ({"gone": 1}, "--gone changed from 1 to None"),
        ({"image": "other", "code_version": "0"}, "the image changed, the software changed"),
    ],
)
def test_whatever_decides_the_result_counts(changes, reason):
    decision = decide(MADE_FROM, entry(**changes))
    assert (decision.status, decision.reason) == ("changed", reason)


def test_an_output_that_is_not_as_recorded():
    assert decide(MADE_FROM, entry(), ["a is missing"]).status == "altered"
    # Outputs are not even looked at where something else changed.
    faults = iter(["a is missing"])
    assert decide(MADE_FROM, entry(image="other"), faults).status == "changed"
    assert next(faults)


def test_force():
    assert decide(MADE_FROM, entry(), force=True).status == "forced"


@pytest.fixture
def tree(tmp_path):
    """An image and its outputs as they are recorded."""
    image = tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    output = tmp_path / "out" / "sub-01" / "anat" / "a b.nii.gz"
    for path in (image, output):
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
    return ImageRecord.from_path(image, tmp_path / "raw"), output


@pytest.fixture
def reuse(tree, tmp_path):
    image, output = tree
    reuse = Reuse(
        output_dir=tmp_path / "out",
        checksums=Checksums(),
        shared={"weights": "w"},
        segmentation="x",
    )
    name = output.relative_to(tmp_path / "out").as_posix()
    done = ImageEntry(
        source=image.relative_path,
        segmentation="x",
        run="r",
        made_from=reuse.made_from(image),
        outputs=[name],
    )
    files = {name: FileEntry(sha256=sha256_of(output), size=output.stat().st_size, run="r")}
    Manifest(files=files, images={done.name: done}).write(
        tmp_path / "out" / "sub-01" / "log" / "manifest.json"
    )
    return reuse


def status(reuse, image):
    return reuse.decision(image, reuse.made_from(image)).status


def test_from_the_tree_alone(reuse, tree):
    assert status(reuse, tree[0]) == "done"


def test_another_image_of_the_same_size(reuse, tree):
    tree[0].path.write_text(tree[0].path.name.upper())
    assert status(reuse, tree[0]) == "changed"


@pytest.mark.parametrize("text", ["", "A B.nii.gz", None])
def test_an_output_that_was_altered_or_taken_away(reuse, tree, text):
    image, output = tree
    if text is None:
        output.unlink()
    else:
        output.write_text(text)
    assert status(reuse, image) == "altered"


def test_another_segmentation_is_not_this_one(reuse, tree):
    reuse.segmentation = "y"
    assert status(reuse, tree[0]) == "new"


def test_a_damaged_manifest_is_as_none(reuse, tree, tmp_path):
    (tmp_path / "out" / "sub-01" / "log" / "manifest.json").write_text("{")
    assert status(reuse, tree[0]) == "new"
