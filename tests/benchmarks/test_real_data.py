"""Simulated contrasts, and the table of the comparison on real data."""

import csv
import json

import nibabel
import numpy as np
import pytest

from l2s_pydra.bids.dataset import build_training_set, find_images
from l2s_pydra.bids.reference import find_labels

SUFFIXES = ("T2w", "FLAIR", "PDw")
NAMES = {1: "cerebral_white_matter", 2: "cerebral_cortex", 3: "lateral_ventricle"}


@pytest.fixture
def contrasts(load):
    return load("_contrasts")


@pytest.fixture
def head():
    """T1-weighted intensities and labels of three shells in air."""
    distance = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0)
    labels = np.select([distance < 7, distance < 13, distance < 18], [3, 1, 2], 0)
    noise = np.random.default_rng(0).normal(0, 2, labels.shape)
    return np.where(labels > 0, np.array([0, 110.0, 75.0, 30.0])[labels] + noise, 0), labels


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_air_stays_black_and_tissue_does_not(contrasts, head, suffix):
    data, labels = head
    made = contrasts.simulate(data, labels, NAMES, suffix)
    assert (made[labels == 0] == 0).all()
    assert (made[labels > 0] > 0).all()
    assert made.max() < 1.3


def test_inverted_contrast_turns_the_order_around(contrasts, head):
    data, labels = head
    made = contrasts.simulate(data, labels, NAMES, "PDw")
    inside = labels > 0
    assert np.corrcoef(data[inside], made[inside])[0, 1] < -0.99


def test_structures_get_the_means_of_the_table(contrasts, head):
    data, labels = head
    made = contrasts.simulate(data, labels, NAMES, "T2w")
    means = {value: made[labels == value].mean() for value in NAMES}
    assert means[3] > means[2] > means[1]
    # Away from the borders.
    deep = np.linalg.norm(np.indices(labels.shape) - 19.5, axis=0)
    middle = (deep > 9.5) & (deep < 10.5)
    assert made[middle].mean() == pytest.approx(0.35, abs=0.01)
    # The texture is upside down.
    assert np.corrcoef(data[middle], made[middle])[0, 1] < -0.7


def test_remapped_contrast_is_not_monotone(contrasts, head):
    data, labels = head
    made = contrasts.simulate(data, labels, NAMES, "FLAIR")
    means = {value: made[labels == value].mean() for value in NAMES}
    assert means[2] > means[1] > means[3]


@pytest.fixture
def sources(tmp_path, head):
    """A data set of three participants, and its reference labels."""
    data, labels = head
    raw, references = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "reference"
    references.mkdir(parents=True)
    splits = {"sub-1": "train", "sub-2": "val", "sub-3": "test"}
    table = "".join(f"{who}\t{split}\n" for who, split in splits.items())
    (raw / "participants.tsv").write_text("participant_id\tsplit\n" + table)
    described = {"Name": "three", "BIDSVersion": "1.10.0"}
    (raw / "dataset_description.json").write_text(json.dumps(described))
    generated = described | {"DatasetType": "derivative", "GeneratedBy": [{"Name": "hand"}]}
    (references / "dataset_description.json").write_text(json.dumps(generated))
    rows = "".join(f"{value}\t{name}\n" for value, name in NAMES.items())
    (references / "desc-common_dseg.tsv").write_text("index\tname\n" + rows)
    for who in splits:
        for folder, name, values in (
            (raw, "T1w", data.astype(np.float32)),
            (references, "desc-common_dseg", labels.astype(np.uint8)),
        ):
            path = folder / who / "anat" / f"{who}_{name}.nii.gz"
            path.parent.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return raw, references


def test_every_contrast_of_those_judged_has_its_labels(contrasts, sources, tmp_path):
    raw, references = sources
    out = tmp_path / "out"
    labels = contrasts.write_data_set(raw, references, "common", out, {"val"})
    images = find_images(out, suffixes=["T1w", *SUFFIXES])
    assert len(images) == 3 + len(SUFFIXES)
    assert {image.participant for image in images if image.suffix != "T1w"} == {"sub-2"}
    assert len(find_labels(labels, images, desc="common")) == len(images)
    learned = build_training_set(out, labels, labels_desc="common")
    assert [image.name for image, _ in learned.learn + learned.validate] == [
        "sub-1_T1w",
        "sub-2_T1w",
    ]
    again = [path.stat().st_mtime_ns for path in sorted(out.rglob("*.nii.gz"))]
    contrasts.write_data_set(raw, references, "common", out, {"val"})
    assert [path.stat().st_mtime_ns for path in sorted(out.rglob("*.nii.gz"))] == again


def test_rows_are_ratios_to_synthseg(load, tmp_path):
    summary = [
        ("T1w", "mean", "dice", "synthseg", "0.5"),
        ("T1w", "mean", "dice", "learn2synth", "0.6"),
        ("T1w", "mean", "ece", "learn2synth", "0.9"),
        ("T1w", "thalamus", "dice", "learn2synth", "0.1"),
    ]
    write(tmp_path / "summary.tsv", ("contrast", "structure", "metric", "mode", "mean"), summary)
    runs = [("synthseg", "10"), ("synthseg", "30"), ("learn2synth", "40"), ("mixed", "n/a")]
    write(tmp_path / "runs.tsv", ("mode", "seconds"), runs)
    found = {
        (r["case"], r["metric"]): (r["value"], r["ratio"]) for r in load("real_data").rows(tmp_path)
    }
    assert found == {
        ("synthseg T1w", "dice"): (0.5, 1.0),
        ("learn2synth T1w", "dice"): (0.6, pytest.approx(1.2)),
        ("synthseg", "time"): (20.0, 1.0),
        ("learn2synth", "time"): (40.0, 2.0),
    }


def write(path, columns, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([columns, *rows])
