"""A finished tree is compared with what was recorded."""

import os
import shutil

import attrs
import pytest

from l2s_pydra.bids.checksums import sha256_of
from l2s_pydra.bids.derivatives import write_text
from l2s_pydra.bids.manifest import ImageEntry
from l2s_pydra.bids.publishing import OutputFolder, publish
from l2s_pydra.bids.verifying import Verification, verify
from l2s_pydra.errors import DatasetError

IMAGE = "sub-01/anat/sub-01_T1w.nii.gz"


@pytest.fixture
def raw(tmp_path):
    write_text(tmp_path / "raw" / IMAGE, "image")
    return tmp_path / "raw"


@pytest.fixture
def tree(tmp_path, raw):
    stage = tmp_path / "stage"
    names = ["sub-01/anat/a.txt", "sub-01.html", "sub-02/anat/b c ä.txt", "logs/r/x", "README.md"]
    for name in names:
        write_text(stage / name, name)
    image = ImageEntry(
        source=IMAGE,
        segmentation="x",
        run="r",
        made_from={"image": sha256_of(raw / IMAGE)},
        outputs=["sub-01/anat/a.txt"],
    )
    with OutputFolder.open(tmp_path / "out", "r") as folder:
        folder.publish(stage, images=[image])
    return tmp_path / "out"


def faults(found):
    values = attrs.asdict(found)
    return {k: v for k, v in values.items() if isinstance(v, tuple) and v}


def test_as_it_was_written(tree, raw):
    found = verify(tree)
    assert found.is_good
    assert faults(found) == {}
    assert (found.files, found.sources) == (5, 0)
    assert found.bytes == sum(
        map(len, map(str.encode, ["sub-01/anat/a.txt", "sub-01.html"]))
    ) + len("sub-02/anat/b c ä.txtlogs/r/xREADME.md".encode())
    assert verify(tree, raw).sources == 1


def test_altered_missing_and_extra(tree):
    before = (tree / "README.md").stat()
    (tree / "README.md").write_text("readme.md")
    os.utime(tree / "README.md", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tree / "sub-01.html").unlink()
    (tree / "sub-01" / "notes.txt").touch()
    found = verify(tree)
    assert not found.is_good
    assert faults(found) == {
        "altered": ("README.md",),
        "missing": ("sub-01.html",),
        "extra": ("sub-01/notes.txt",),
    }


@pytest.mark.parametrize(
    ("left", "gone", "manifest"),
    [
        ("prov/prov-sub01_act.json", "sub-01", "sub-01/log/manifest.json"),
        ("sub-01/log/r/l2s_pydra.toml", "sub-01/log/manifest.json", "sub-01/log/manifest.json"),
        ("logs/r/l2s_pydra.toml", "logs/r/manifest.json", "logs/r/manifest.json"),
        ("prov/prov-software1_soft.json", "logs/manifest.json", "logs/manifest.json"),
    ],
)
def test_what_is_gone_with_its_manifest_is_missed(tree, tmp_path, left, gone, manifest):
    write_text(tmp_path / "more" / left, left)
    publish(tmp_path / "more", tree)
    assert verify(tree).is_good
    if (tree / gone).is_dir():
        shutil.rmtree(tree / gone)
    else:
        (tree / gone).unlink()
    found = verify(tree)
    assert found.missing == (manifest,)
    assert not found.is_good


def test_files_of_ones_own_are_no_fault(tree):
    (tree / "notes.txt").touch()
    assert verify(tree).is_good


@pytest.mark.parametrize(("text", "kind"), [("other", "altered"), (None, "missing")])
def test_images_that_are_not_what_they_were(tree, raw, text, kind):
    (raw / IMAGE).unlink() if text is None else (raw / IMAGE).write_text(text)
    assert verify(tree).is_good
    found = verify(tree, raw)
    assert not found.is_good
    assert faults(found) == {f"{kind}_sources": (IMAGE,)}


def test_a_damaged_manifest_is_told_and_the_others_are_used(tree):
    (tree / "sub-01" / "log" / "manifest.json").write_text("{")
    (tree / "README.md").unlink()
    found = verify(tree)
    (damaged,) = found.unreadable
    assert damaged.startswith("sub-01/log/manifest.json: is no manifest")
    assert found.missing == ("README.md",)


def test_without_manifests(tmp_path):
    with pytest.raises(DatasetError, match="holds no manifest"):
        verify(tmp_path)


def test_it_writes_nothing(tree, raw):
    def snapshot():
        return {p: (p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in (tree, *tree.rglob("*"))}

    before = snapshot()
    assert isinstance(verify(tree, raw), Verification)
    assert snapshot() == before
