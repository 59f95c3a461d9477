"""Images that are drawn are those of the training's generator, and their records say all."""

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch

from l2s_pydra import bids_examples
from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import ConfigError, DatasetError
from l2s_pydra.labels import LabelScheme
from l2s_pydra.steps.synthesize import synthesize
from l2s_pydra.synthesis import SynthesisDraw

ROOT = bids_examples.path("phantom") / "derivatives"
CONFIG = LearnConfig().evolve(spacing_mm=8.0, segmenter__depth=2, synthesis__flip=0.0)


@pytest.fixture
def make(tmp_path):
    def make(name="out", **changes):
        given = {
            "label_maps": sorted((ROOT / "labelmaps").rglob("*_dseg.nii.gz"))[:2],
            "maps_table": ROOT / "labelmaps" / "desc-head_dseg.tsv",
            "target_table": ROOT / "reference" / "desc-tissue_dseg.tsv",
            "config": CONFIG.to_dict(),
            "count": 2,
            "device": "cpu",
            "threads": 1,
            "out_dir": tmp_path / name,
        }
        return synthesize(**{**given, **changes})

    return make


@pytest.fixture
def theta(tmp_path):
    """Two dark and a bright group, hardly any noise; the others as they start."""
    values = {"mean/White-Matter": 0.9, "mean/Gray-Matter": 0.3, "mean/CSF": 0.1}
    values |= {f"variation/{name.partition('/')[2]}": 0.001 for name in list(values)}
    values |= {f"spread/{name.partition('/')[2]}": 0.001 for name in list(values)[:3]}
    path = tmp_path / "theta.json"
    path.write_text(json.dumps({"average": {**values, "noise": 0.001, "bias": 0.001}}))
    return path


def test_files_of_an_image(make):
    made = make()
    names = [path.name for path in (*made.images, *made.labels, *made.draws, made.table)]
    kinds = ("image.nii.gz", "dseg.nii.gz", "draw.json")
    assert names == [f"synth-000{i}_{kind}" for kind in kinds for i in (0, 1)] + ["dseg.tsv"]
    scheme = LabelScheme.read(made.table)
    assert scheme == LabelScheme.read(ROOT / "reference" / "desc-tissue_dseg.tsv")
    for image_path, labels_path in zip(made.images, made.labels, strict=True):
        image, labels = nb.load(image_path), nb.load(labels_path)
        assert image.shape == labels.shape
        assert np.array_equal(image.affine, labels.affine)
        assert nb.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_zooms() == (8.0, 8.0, 8.0)
        values = np.unique(np.asarray(labels.dataobj))
        assert set(values) <= set(scheme.indices)
        assert len(values) > 2
        assert -0.5 < image.get_fdata().min() < image.get_fdata().max() < 2


def test_labels_lie_where_those_of_the_label_map_are(make):
    """Without a deformation they are its own, on a coarser grid in the same place."""
    still = {"rotation_deg", "scaling", "shearing", "translation_mm", "nonlinear_std_mm"}
    config = CONFIG.evolve(spacing_mm=4.0, **{f"synthesis__{name}": 0.0 for name in still})
    made = make(config=config.to_dict(), count=1, target_table=None)
    labels = nb.load(made.labels[0])
    source = nb.load(sorted((ROOT / "labelmaps").rglob("*_dseg.nii.gz"))[0])
    data = np.asarray(source.dataobj)
    # The table of the label maps says what its labels are merged to.
    table = LabelScheme.read(ROOT / "labelmaps" / "desc-head_dseg.tsv")
    data = np.array([label.mapping or 0 for label in table.labels])[
        table.to_channels(data, source="map")
    ]
    centre = nb.affines.apply_affine
    assert len(np.unique(data)) > 4
    for value in np.unique(data)[1:]:
        there = centre(source.affine, np.argwhere(data == value).mean(0))
        here = centre(labels.affine, np.argwhere(np.asarray(labels.dataobj) == value).mean(0))
        # Half a voxel of 4 mm: majority of the labels in a voxel.
        assert np.abs(there - here).max() < 2, value


def test_a_seed_decides_everything(make):
    """Together or one by one: the same bytes."""
    together, alone = make("together", seed=3), make("alone", seed=4, count=1)
    assert together.images[1].name == alone.images[0].name == "synth-0004_image.nii.gz"
    for kind in ("images", "labels", "draws"):
        one, other = getattr(together, kind)[1], getattr(alone, kind)[0]
        assert one.read_bytes() == other.read_bytes()
    assert together.images[0].read_bytes() != together.images[1].read_bytes()


def test_a_record_is_rendered_again(make, theta):
    """From the record alone, with the label map and the tables beside it."""
    from l2s_pydra.steps.schemes import read_schemes
    from l2s_pydra.steps.synthesize import _Generator

    made = make(theta=theta, learned_share=0.5, count=6)
    records = [json.loads(path.read_text()) for path in made.draws]
    assert {record["learned"] for record in records} == {True, False}
    assert [record["seed"] for record in records] == list(range(6))
    again = _Generator.of(
        CONFIG.evolve(
            synthesis=records[0]["synthesis"],
            augmentation__theta=json.loads(theta.read_text()),
        ),
        read_schemes(
            ROOT / "reference" / "desc-tissue_dseg.tsv",
            ROOT / "labelmaps" / "desc-head_dseg.tsv",
            None,
        ),
        sorted((ROOT / "labelmaps").rglob("*_dseg.nii.gz"))[:2],
        stripped=False,
        device=torch.device("cpu"),
    )
    for record, path in zip(records, made.images, strict=True):
        draw = SynthesisDraw.from_json(json.dumps(record["draw"]))
        image, _ = again.render(draw, learned=record["learned"])
        np.testing.assert_array_equal(image, np.asarray(nb.load(path).dataobj))


def test_learned_values_are_what_is_drawn(make, theta):
    made = make(theta=theta, learned_share=1.0, count=4)
    scheme = LabelScheme.read(made.table)
    index = {label.name: label.index for label in scheme.labels}
    for image_path, labels_path, draw in zip(made.images, made.labels, made.draws, strict=True):
        image = nb.load(image_path).get_fdata()
        labels = np.asarray(nb.load(labels_path).dataobj)
        grey, white = (
            np.median(image[labels == index[name]]) for name in ("Gray-Matter", "White-Matter")
        )
        # Means 0.3 and 0.9, but for partial volume and the scaling of the image to [0, 1].
        assert 0.2 < grey / white < 0.5, draw


def test_wide_draws_do_not_know_what_was_learned(make, theta):
    wide, plain = make("wide", theta=theta, learned_share=0.0), make("plain")
    for one, other in zip(wide.images, plain.images, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_nothing_else_in_the_folder(make):
    made = make()
    written = {*made.images, *made.labels, *made.draws, made.table}
    assert set(Path(made.table).parent.iterdir()) == written


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"count": 0}, ConfigError, "count must be at least 1, not 0"),
        ({"seed": -1}, ConfigError, "seed must be at least 0"),
        ({"learned_share": 1.5}, ConfigError, "learned_share must be between 0 and 1"),
        ({"label_maps": []}, DatasetError, "no label map"),
        (
            {"config": CONFIG.evolve(synthesis__channels=2).to_dict()},
            ConfigError,
            "set synthesis.channels to 1",
        ),
        (
            {"maps_table": ROOT / "reference" / "desc-tissue_dseg.tsv"},
            DatasetError,
            r"2 files cannot be used: .*not in the label table; add a row",
        ),
    ],
)
def test_what_cannot_be_used(make, changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


def test_theta_of_other_groups(make, tmp_path):
    path = tmp_path / "theta.json"
    path.write_text(json.dumps({"mean/Hippocampus": 0.5}))
    with pytest.raises(ConfigError, match=r"no group of the label maps .* has a learned value"):
        make(theta=path)
