"""What is known of a derivative's images is what its sidecars say, and costs no reading of all."""

import json
import shutil

import pytest

from l2s_pydra.bids import uses as reading
from l2s_pydra.bids.derivatives import write_json, write_text
from l2s_pydra.bids.known_uses import known_uses
from l2s_pydra.bids.provenance import sidecar
from l2s_pydra.bids.publishing import HIDDEN, USES, publish
from l2s_pydra.bids.uses import find_uses

MODELS = {name: {"name": name, "version": "1", "sha256": name * 32} for name in ("m1", "m2")}


def segment(root, who, model="m1", suffix="T1w"):
    values = sidecar(
        "dseg",
        source=f"{who}/anat/{who}_{suffix}.nii.gz",
        entities={"subject": who.removeprefix("sub-"), "suffix": suffix},
        model=MODELS[model],
        details={"FlipAveraging": True, "LargestPieceOnly": {"Structures": ["a", "b"]}},
    )
    stem = f"{who}_seg-x_desc-{suffix}"
    write_json(root / who / "anat" / f"{stem}_dseg.json", values)
    if who == "sub-01":
        write_text(root / who / "anat" / f"{stem}_morph.tsv", "index\tname\tvolume-mm3\n")


@pytest.fixture
def root(tmp_path):
    (tmp_path / HIDDEN).mkdir()
    for who in ("sub-01", "sub-02", "sub-03"):
        segment(tmp_path, who)
    known_uses(tmp_path)
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Names of the sidecars that are read."""
    names, original = [], reading._read

    def watched(path):
        names.append(path.name[:6])
        return original(path)

    monkeypatch.setattr(reading, "_read", watched)
    return names


def same(found, root):
    def told(uses):
        return [(use, dict(use.contrasts), use.participants, use.volumes) for use in uses]

    return told(found) == told(find_uses(root))


def test_a_run_reads_the_sidecars_of_its_participants(root, read):
    segment(root, "sub-02", "m2")
    found = known_uses(root, ["sub-02"])
    assert read == ["sub-02"]
    assert [use.model for use in found] == ["m1", "m2"]
    assert same(found, root)


def test_folders_that_are_new_or_gone_are_noticed(root, read):
    """A run that was killed said nothing of its participant; somebody deleted another one."""
    segment(root, "sub-04", "m2", "FLAIR")
    shutil.rmtree(root / "sub-01")
    found = known_uses(root, [])
    assert read == ["sub-04"]
    assert same(found, root)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 2}', '{"format": 1, "uses": [1]}'])
def test_a_file_that_is_lost_or_damaged_is_made_anew(root, text):
    place = root / HIDDEN / USES
    good = json.loads(place.read_text())
    place.unlink() if text is None else place.write_text(text)
    assert same(known_uses(root, []), root)
    assert json.loads(place.read_text()) == good


def test_everyone_is_read_if_nobody_says_who_changed(root, tmp_path_factory):
    stage = tmp_path_factory.mktemp("stage")
    segment(stage, "sub-03", "m2")
    publish(stage, root)
    assert same(known_uses(root, []), root)
    segment(root, "sub-02", "m2")
    assert same(known_uses(root), root)
