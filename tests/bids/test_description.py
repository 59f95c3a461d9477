import json

import nibabel as nib
import numpy as np
import pytest

from l2s_pydra.bids.dataset import find_images, find_labels, label_table
from l2s_pydra.bids.derivatives import dataset_path, derivative_path, write_json, write_text
from l2s_pydra.bids.description import (
    dataset_description,
    describe_dataset,
    descriptions,
    raw_link,
)
from l2s_pydra.bids.provenance import run_record, sidecar, to_toml
from l2s_pydra.config import LearnConfig
from l2s_pydra.steps.outputs import DATASET_OUTPUTS, IMAGE_OUTPUTS, bidsignore

MODEL = {"name": "m1", "version": "1", "sha256": "0" * 64, "learn": LearnConfig().to_dict()}
T1W = {"subject": "01", "suffix": "T1w"}


def test_link_below_the_raw_data_set(tmp_path):
    output = tmp_path / "derivatives" / "l2s_pydra"
    values = dataset_description(tmp_path, output, container={"Type": "docker", "Tag": "x:1"})
    assert values["DatasetLinks"] == {"raw": "../.."}
    assert values["SourceDatasets"] == [{"URL": "file:../.."}]
    assert values["GeneratedBy"][0]["Container"]["Tag"] == "x:1"
    assert (output / values["DatasetLinks"]["raw"]).resolve() == tmp_path


def test_link_names_no_user():
    assert raw_link("/home/someone/ds", "/scratch/out") == "sourcedata/raw"
    assert raw_link("/home/someone/ds", "/home/someone/out") == "../ds"
    assert raw_link("/scratch/someone/ds", "/out") == "sourcedata/raw"
    assert raw_link("/bids", "/out") == "../bids"  # as containers have it
    assert raw_link("/scratch/someone/ds", "/scratch/someone/ds/derivatives/x") == "../.."


def test_licence_and_doi_of_the_raw_data_set(tmp_path):
    write_json(
        tmp_path / "dataset_description.json",
        {"Name": "Study", "License": "CC0", "DatasetDOI": "doi:10.1/x"},
    )
    values = dataset_description(tmp_path, tmp_path / "out")
    assert values["License"] == "CC0"
    assert values["SourceDatasets"] == [{"DOI": "doi:10.1/x"}]
    assert "Study" in values["Name"]


def test_sources_have_the_version_that_they_tell(tmp_path):
    write_text(tmp_path / "CHANGES", "Revision history\n1.0.2 2026-03-01\n - a\n1.0.1 2025-01-01\n")
    (source,) = dataset_description(tmp_path, tmp_path / "out")["SourceDatasets"]
    assert source == {"URL": "file:..", "Version": "1.0.2"}


def test_links_to_what_earlier_runs_used_stay(tmp_path):
    output = tmp_path / "derivatives" / "l2s_pydra"
    labels = tmp_path / "derivatives" / "manual"
    write_json(labels / "dataset_description.json", {"Name": "x", "DatasetDOI": "doi:10.1/y"})
    first = dataset_description(tmp_path, output, links={"labels": labels})
    write_json(output / "dataset_description.json", first)
    second = dataset_description(tmp_path, output)
    assert second["DatasetLinks"] == {"raw": "../..", "labels": "../manual"}
    assert second["SourceDatasets"] == [{"URL": "file:../.."}, {"DOI": "doi:10.1/y"}]
    write_json(output / "dataset_description.json", second)
    assert dataset_description(tmp_path, output) == second


@pytest.mark.parametrize("broken", ["[]", '{"DatasetLinks": 3, "SourceDatasets": {"a": 1}}', "{"])
def test_a_broken_description_is_made_anew(tmp_path, broken):
    output = tmp_path / "out"
    write_text(output / "dataset_description.json", broken)
    assert dataset_description(tmp_path, output)["SourceDatasets"] == [{"URL": "file:.."}]


def test_damaged_descriptions_are_begun_anew(tmp_path, caplog):
    (tmp_path / "descriptions.tsv").write_bytes(b"desc_id\tdescription\n\xff\tx\n")
    assert descriptions(tmp_path, [T1W]) == descriptions(tmp_path / "new", [T1W])
    assert "descriptions.tsv: is no table" in caplog.text


def test_descriptions_are_kept_and_added(tmp_path):
    write_text(tmp_path / "descriptions.tsv", descriptions(tmp_path, [T1W]))
    table = descriptions(tmp_path, [{"suffix": "T1w", "desc": "preproc"}, {"suffix": "FLAIR"}])
    assert [line.split("\t")[0] for line in table.splitlines()] == [
        "desc_id",
        "desc-FLAIR",
        "desc-T1w",
        "desc-preprocT1w",
    ]


@pytest.fixture
def described(tmp_path):
    """Describe a derivative without images, staged; what each file says."""

    def described():
        paths = describe_dataset(
            tmp_path / "staged",
            bids_dir=tmp_path,
            output_dir=tmp_path / "published",
            images=[],
            bidsignore="",
            models=[MODEL],
        )
        return {path.name: path.read_text() for path in paths}

    return described


@pytest.mark.parametrize("place", ["staged", "published"])
def test_a_comparison_is_told_where_there_is_one(tmp_path, described, place):
    before = described()
    (tmp_path / place / "comparison").mkdir(parents=True)
    after = described()
    assert {name for name in after if after[name] != before[name]} == {
        "README.md", "CITATION.md", "CITATION.html", "CITATION.bib",
    }  # fmt: skip
    for name, said in (
        ("README.md", "\n- `comparison`: "),
        ("CITATION.md", "(folder `comparison`)"),
        ("CITATION.html", "<li>Satterthwaite FE. "),
        ("CITATION.bib", "@article{satterthwaite,"),
    ):
        assert said in after[name]
        assert said not in before[name]
    assert "\n\n\n" not in after["README.md"] + after["CITATION.md"]
    assert after["CITATION.bib"].count("\n@") + 1 == after["CITATION.md"].count("https://doi.org/")


@pytest.mark.parametrize("place", ["staged", "published"])
def test_models_are_told_where_there_are_any(tmp_path, described, place):
    def texts():
        said = described()
        return json.loads(said["dataset_description.json"])["DatasetLinks"], said["README.md"]

    links, readme = texts()
    assert links == {"raw": ".."}
    assert "models" not in readme.partition("- `prov`")[0].rpartition("- `sub-*/log`")[2]
    assert "bids:models:" not in readme
    assert "\n\n\n" not in readme
    assert "settings of each run.\n- `prov`" in readme
    (tmp_path / place / "models").mkdir(parents=True)
    links, readme = texts()
    assert links == {"raw": "..", "models": "models"}
    assert "\n- `models`: the networks" in readme
    assert "`bids:models:`" in readme
    # A link of an earlier version to what is not there goes
    (tmp_path / place / "models").rmdir()
    (tmp_path / "published").mkdir(exist_ok=True)
    write_json(tmp_path / "published" / "dataset_description.json", {"DatasetLinks": links})
    assert texts()[0] == {"raw": ".."}


# A whole derivative, made with every row of the table of outputs.

IMAGES = [
    "sub-01/ses-a/anat/sub-01_ses-a_acq-x_ce-y_rec-z_run-01_T1w",
    "sub-01/ses-a/anat/sub-01_ses-a_acq-x_ce-y_rec-z_run-02_T1w",
    "sub-01/ses-a/anat/sub-01_ses-a_T2w",
    "sub-02/anat/sub-02_FLAIR",
]
SUFFIXES = ("T1w", "T2w", "FLAIR")


def write_image(path, dtype, *, volumes=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (4, 4, 4, volumes) if volumes else (4, 4, 4)
    image = nib.Nifti1Image(np.ones(shape, dtype), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


@pytest.fixture
def raw(tmp_path):
    root = tmp_path / "ds"
    write_json(
        root / "dataset_description.json",
        {"Name": "toy", "BIDSVersion": "1.11.1", "DatasetType": "raw", "License": "CC0"},
    )
    write_text(root / "README.md", "A toy data set made for a test of derivatives. " * 5)
    for name in IMAGES:
        write_image(root / f"{name}.nii.gz", np.float32)
        write_json(root / f"{name}.json", {"MagneticFieldStrength": 3})
    return root


def write_output(root, row, record):
    path = root / derivative_path(record.entities, row, segmentation="common")
    dseg = derivative_path(record.entities, IMAGE_OUTPUTS["dseg"], segmentation="common")
    if row.sidecar:
        values = sidecar(
            row.sidecar,
            source=record.relative_path,
            entities=record.entities,
            model=MODEL,
            dseg=str(dseg),
            labels=["background", "brain"],
        )
        write_json(path, values)
    elif row.key == "probseg":
        write_image(path, np.float32, volumes=2)
    elif row.extension == ".nii.gz":
        write_image(path, np.uint8)
    elif row.key == "dseg_tsv":
        write_text(path, "index\tname\n0\tbackground\n1\tbrain\n")
    elif row.key == "morph":
        write_text(path, "index\tname\tvolume-mm3\n1\tbrain\t64\n")
    else:
        write_text(path, "picture")


@pytest.fixture
def derivative(raw):
    root = raw / "derivatives" / "l2s_pydra"
    records = find_images(raw, suffixes=SUFFIXES)
    assert len(records) == len(IMAGES)
    for record in records:
        for row in IMAGE_OUTPUTS.values():
            write_output(root, row, record)
    described = describe_dataset(
        root,
        bids_dir=raw,
        output_dir=root,
        images=[record.entities for record in records],
        bidsignore=bidsignore(),
        models=[MODEL],
    )
    for row in DATASET_OUTPUTS.values():
        fields = {
            "participant": "sub-01",
            "run": "r",
            "name": "n",
            "model": "m1",
            "segmentation": "common",
            "group": "group",
            "kind": "act",
        }
        path = root / dataset_path(row, **fields)
        if row.key == "model":
            write_text(path / "weights.safetensors", "weights")
            write_json(path / "config.json", {})
        elif row.key == "run":
            write_text(path, to_toml(run_record(run="r", command=["x"], settings={})))
        elif path not in described:
            write_text(path, "a\tb\n")
    return root


@pytest.fixture
def validate(bids_validator):
    """Codes of errors and of warnings."""

    def validate(root):
        done = bids_validator(root, "--format", "json")
        issues = json.loads(done.stdout)["issues"]["issues"]
        return {
            severity: sorted({i["code"] for i in issues if i["severity"] == severity})
            for severity in ("error", "warning")
        }

    return validate


def test_the_validator_finds_nothing_wrong(derivative, validate):
    issues = validate(derivative)
    assert issues["error"] == []
    assert issues["warning"] == ["TOO_FEW_AUTHORS"]  # who they are is for the user to say


def test_the_validator_would_find_what_bidsignore_hides(derivative, validate):
    (derivative / ".bidsignore").unlink()
    assert "NOT_INCLUDED" in validate(derivative)["error"]


def test_outputs_can_be_read_back(raw, derivative):
    images = find_images(raw, suffixes=SUFFIXES)
    labels = find_labels(derivative, images)
    assert sorted(labels) == sorted(image.name for image in images)
    for path in labels.values():
        assert label_table(derivative, path) == path.with_name(f"{path.name[:-7]}.tsv")
