import json

import pytest

from l2s_pydra.bids.derivatives import dataset_path
from l2s_pydra.bids.manifest import FileEntry, ImageEntry, Manifest, manifest_of, manifests
from l2s_pydra.errors import DatasetError
from l2s_pydra.steps.outputs import DATASET_OUTPUTS


@pytest.fixture
def manifest():
    image = ImageEntry(
        source="sub-01/anat/sub-01_T1w.nii.gz",
        segmentation="x",
        run="r",
        made_from={"image": "aa", "keep_largest": None, "entities": {"subject": "01"}},
        outputs=["sub-01/anat/a"],
    )
    files = {"sub-01/anat/a": FileEntry(sha256="aa", size=1, run="r")}
    return Manifest(files=files, images={image.name: image})


def test_it_comes_back_as_it_was(manifest, tmp_path):
    manifest.write(tmp_path / "sub-01" / "log" / "manifest.json")
    assert Manifest.read(tmp_path / "sub-01" / "log" / "manifest.json") == manifest
    assert list(manifests(tmp_path)) == ["sub-01/log/manifest.json"]


def test_none_is_empty(tmp_path):
    assert Manifest.read(tmp_path / "none.json") == Manifest()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"format": 2}', '{"format": 1, "files": {"a": 1}, "images": []}', "{}"],
)
def test_a_damaged_one_is_told_and_begun_anew(tmp_path, text, caplog):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"manifest\.json: is no manifest.*delete it"):
        Manifest.read(path)
    assert Manifest.read_or_begin(path) == Manifest()
    assert "is no manifest" in caplog.text


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("files", "sha256", None),
        ("files", "size", "1"),
        ("images", "source", 1),
        ("images", "made_from", None),
        ("images", "outputs", [1]),
    ],
)
def test_values_of_another_kind_are_damage(manifest, tmp_path, kind, key, value):
    path = tmp_path / "manifest.json"
    manifest.write(path)
    values = json.loads(path.read_text())
    entries = values[kind].values() if kind == "files" else values[kind]
    next(iter(entries))[key] = value
    path.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match="is no manifest"):
        Manifest.read(path)


def test_it_is_plain_json(manifest, tmp_path):
    manifest.write(tmp_path / "manifest.json")
    values = json.loads((tmp_path / "manifest.json").read_text())
    assert values["files"]["sub-01/anat/a"] == {"sha256": "aa", "size": 1, "run": "r"}
    assert values["images"][0]["made_from"]["image"] == "aa"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sub-01/ses-a/anat/x.nii.gz", "sub-01/log/manifest.json"),
        ("sub-01/log/report.json", "sub-01/log/manifest.json"),
        ("sub-01/", "sub-01/log/manifest.json"),
        ("sub-01.html", "sub-01/log/manifest.json"),
        ("sub-01x.html", "sub-01x/log/manifest.json"),
        ("sub-notes.txt", "logs/manifest.json"),
        ("prov/prov-sub01_act.json", "sub-01/log/manifest.json"),
        ("prov/prov-group_act.json", "logs/manifest.json"),
        ("logs/CITATION.md", "logs/manifest.json"),
        ("logs/r/l2s_pydra.toml", "logs/r/manifest.json"),
        ("models/model-m/weights.safetensors", "logs/manifest.json"),
        (".bidsignore", "logs/manifest.json"),
    ],
)
def test_which_manifest_a_file_belongs_to(path, expected):
    assert manifest_of(path) == expected


def test_the_manifests_are_rows_of_the_table_of_outputs():
    rows = {
        key: str(dataset_path(DATASET_OUTPUTS[key], participant="sub-1", run="r")) for key in ROWS
    }
    assert {key: manifest_of(path) for key, path in ROWS.items()} == rows


ROWS = {"manifest": "sub-1/x", "dataset_manifest": "x", "run_manifest": "logs/r/x"}
