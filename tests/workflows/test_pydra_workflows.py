"""The Pydra workflows, as someone uses them who embeds them in a larger one."""

import json
import shutil
from pathlib import Path

import pytest
from pydra.compose import workflow

from l2s_pydra.bids.dataset import find_images, find_labels, shared_table
from l2s_pydra.tasks import Resources
from l2s_pydra.workflows.evaluate import EvaluateImages
from l2s_pydra.workflows.segment import SegmentImage, SegmentImages

CPU = Resources(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_ET", "1")
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))


@pytest.fixture
def files(model):
    return {
        "weights": model / "weights.safetensors",
        "config": model / "config.json",
        "labels": model / "labels.tsv",
        "resources": CPU,
    }


def test_segment_and_evaluate_many(phantom, model, files, tmp_path):
    images = find_images(phantom, participants=["02", "03"])
    segmented = SegmentImages(
        images=[image.path for image in images],
        entities=[image.entities for image in images],
        sources=[image.relative_path for image in images],
        **files,
    )(cache_root=tmp_path / "cache")
    dsegs = [next(Path(tree).rglob("*_dseg.nii.gz")) for tree in segmented.trees]
    assert [dseg.name.split("_")[0] for dseg in dsegs] == ["sub-02", "sub-03"]
    summaries = [json.loads(Path(summary).read_text()) for summary in segmented.summaries]
    assert [summary["source"] for summary in summaries] == [i.relative_path for i in images]
    reference = phantom / "derivatives" / "reference"
    labels = find_labels(reference, images)
    compared = EvaluateImages(
        dsegs=dsegs,
        names=[image.name for image in images],
        references=[labels[image.name] for image in images],
        reference_table=shared_table(reference, labels.values()),
        model_labels=[model / "labels.tsv"] * 2,
    )(cache_root=tmp_path / "cache")
    names = [Path(table).read_text().splitlines()[1].split("\t")[0] for table in compared.tables]
    assert names == ["sub-02_T1w", "sub-03_T1w"]


def test_two_identical_scans_keep_their_names(phantom, files, tmp_path):
    """Pydra hashes content; entities keep the two apart."""
    scan = phantom / "sub-04" / "anat" / "sub-04_T1w.nii.gz"
    copy = tmp_path / "sub-05_T1w.nii.gz"
    shutil.copy(scan, copy)
    segmented = SegmentImages(
        images=[scan, copy],
        entities=[{"subject": who, "suffix": "T1w"} for who in ("04", "05")],
        sources=["sub-04/anat/sub-04_T1w.nii.gz", "sub-05/anat/sub-05_T1w.nii.gz"],
        **files,
    )(cache_root=tmp_path / "cache")
    names = [next(Path(tree).rglob("*_dseg.nii.gz")).name for tree in segmented.trees]
    assert names == [f"sub-{who}_seg-tissue_desc-T1w_dseg.nii.gz" for who in ("04", "05")]


def test_inside_a_larger_workflow(phantom, files, tmp_path):
    scan = phantom / "sub-04" / "anat" / "sub-04_T1w.nii.gz"

    @workflow.define(outputs=["summary"])
    def Larger(subject: str) -> str:
        segmented = workflow.add(
            SegmentImage(
                image=scan,
                entities={"subject": subject, "suffix": "T1w"},
                source=scan.name,
                **files,
            )
        )
        return segmented.summary

    summary = Larger(subject="04")(cache_root=tmp_path / "cache").summary
    assert json.loads(Path(summary).read_text())["entities"]["subject"] == "04"
