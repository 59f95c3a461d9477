"""A training that sees label maps and no image."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from l2s_pydra import bids_examples
from l2s_pydra.bilevel.training import Trainer
from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import ConfigError, DatasetError
from l2s_pydra.labels import LabelScheme
from l2s_pydra.segmentation import Model
from l2s_pydra.steps.learn import learn
from l2s_pydra.steps.prepare import prepare
from l2s_pydra.steps.preview import preview
from l2s_pydra.steps.report import report_model
from l2s_pydra.steps.schemes import read_schemes

MAPS = bids_examples.path("phantom") / "derivatives" / "labelmaps"


@pytest.fixture
def given(config, tmp_path):
    """``given(**settings)``: arguments of the step for the label maps of the phantom data set."""

    def given(ndim=3, **settings):
        first, second, third = sorted(MAPS.rglob("*_dseg.nii.gz"))
        settings = {"training__mode": "synthseg", "synthesis__strip_share": 0.5, **settings}
        return {
            **dict.fromkeys(("images", "labels", "participants", "roles"), ()),
            "label_maps": [first, second],
            "validation_maps": [third],
            "real_table": MAPS / "desc-head_dseg.tsv",
            "config": config(ndim, **settings),
            "segmentation": "head",
            "out_dir": tmp_path / "out",
            "device": "cpu",
            "progress": False,
        }

    return given


def prepared(given):
    """Training data as the step makes them."""
    return prepare(
        **dict.fromkeys(("images", "labels", "names", "roles"), ()),
        label_maps=given["label_maps"],
        validation_maps=given["validation_maps"],
        schemes=read_schemes(given["real_table"], None, None),
        config=LearnConfig.from_dict(given["config"]),
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_model_from_label_maps_alone(given, ndim, tmp_path):
    folder = learn(**given(ndim))
    model = Model.load(folder)
    # What the column mapping of the table makes of the labels.
    assert model.scheme.indices == (0, 1, 2, 3, 4, 5)
    record = json.loads((folder / "config.json").read_text())
    assert record["validation_maps"] == ["sub-map03_desc-head_dseg.nii.gz"]
    assert record["label_maps"] == [f"sub-map0{i}_desc-head_dseg.nii.gz" for i in (1, 2)]
    assert not record["skull_stripped"]
    assert 0 <= record["best_dice"] <= 1
    assert len(record["validation_dice"]) == 5
    assert {path.name for path in (folder / "samples").iterdir()} == {"wide.npz"}
    assert not (folder / "priors.json").exists()
    card = (folder / "MODELCARD.md").read_text()
    assert "No real image was seen" in card
    assert "sub-map03_desc-head_dseg.nii.gz" in card
    assert "whole-head and skull-stripped" in card
    page = report_model(folder, tmp_path / "page" / "report.html").read_text()
    assert "Label maps whose synthetic images chose the weights" in page


def test_the_table_of_the_target_says_what_is_written(given, tmp_path):
    table, mapping = tmp_path / "labels.tsv", tmp_path / "mapping.tsv"
    table.write_text(
        "index\tname\tside\n0\tnothing\tmidline\n7\tleft half\tleft\n9\tright half\tright\n"
    )
    sides = {"left": 7, "right": 9, "midline": 0}
    maps = LabelScheme.read(MAPS / "desc-head_dseg.tsv")
    rows = "".join(f"{x.index}\t{sides[x.side_or_guess]}\n" for x in maps.labels)
    mapping.write_text(f"index\tmapping\n{rows}")
    tables = {
        "real_table": table,
        "maps_table": MAPS / "desc-head_dseg.tsv",
        "label_mapping": mapping,
    }
    model = Model.load(learn(**{**given(), **tables}))
    assert model.scheme.indices == (0, 7, 9)
    assert model.scheme.opposite == (0, 2, 1)
    assert model.learn_config.synthesis.flip == 0.5


def test_held_out_images_are_always_the_same(given):
    one, facts = prepared(given(training__seed=0))
    other, _ = prepared(given(training__seed=5))
    assert len(one.validate) == 3
    for scan, again in zip(one.validate, other.validate, strict=True):
        torch.testing.assert_close(scan.image, again.image, rtol=0, atol=0)
        assert torch.equal(scan.target, again.target)
        assert tuple(scan.image.shape) == tuple(facts["grid_shape"])
    assert len({scan.name for scan in one.validate}) == 3
    # Another contrast and another place each time.
    assert not torch.equal(one.validate[0].target, one.validate[1].target)
    assert len(one.synthesizer.label_maps) == 2
    assert one.learn == []
    assert facts["statistics"] == {}


def test_held_out_images_are_whole_where_training_images_are_crops(given):
    data, facts = prepared(given(synthesis__crop=[16, 16, 16]))
    assert data.synthesizer.image_shape == (16, 16, 16)
    assert tuple(data.validate[0].image.shape) == tuple(facts["grid_shape"])


def test_the_grid_has_room_for_every_head(given):
    data, facts = prepared(given())
    grid = np.array(facts["grid_shape"]) * 8.0
    for labels in data.synthesizer.label_maps:
        structures = np.argwhere(data.synthesizer.labels.channel.numpy()[labels.numpy()] > 0)
        extent = np.ptp(structures, axis=0) * data.synthesizer.fine_spacing_mm
        # A head around a brain takes some 3 cm more on each side.
        assert (extent + 2 * 28 <= grid).all()


@pytest.mark.parametrize("mode", ["learn2synth", "supervised", "finetuned"])
def test_other_modes_need_images(given, mode):
    with pytest.raises(ConfigError, match="needs labelled images"):
        learn(**given(training__mode=mode))


def test_there_must_be_something_to_validate_on(given):
    with pytest.raises(ConfigError, match="0 to validate on"):
        learn(**{**given(), "validation_maps": []})
    with pytest.raises(ConfigError, match=r"0 label map\(s\) to synthesise from"):
        learn(**{**given(), "label_maps": []})


def test_no_label_map_is_on_both_sides(given):
    values = given()
    values["validation_maps"] = values["label_maps"][:1]
    with pytest.raises(DatasetError, match="holds the same labels as"):
        learn(**values)


def test_label_maps_to_validate_on_are_for_trainings_without_images(inputs):
    given = inputs()
    with pytest.raises(ConfigError, match="trainings without images"):
        learn(**given, validation_maps=given["label_maps"][:1])


def test_preview(given, tmp_path):
    values = given()
    for name in ("segmentation", "progress", "out_dir"):
        del values[name]
    page = preview(**values, out_dir=tmp_path / "preview", count=2)
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert figures == {"glance.png", "wide-01.png", "wide-02.png"}
    text = page.read_text()
    assert "none; 3 synthetic ones of held-out label maps to validate on" in text
    assert "50% of the synthetic images" in text


class StopError(Exception):
    """Stands for whatever ends a process."""


def test_an_interruption_changes_nothing(given, tmp_path, monkeypatch):
    whole = learn(**given(training__steps=6))
    values = {**given(training__steps=6), "checkpoint_dir": tmp_path / "checkpoints"}
    save, saved = Trainer.save, []

    def saving(trainer):
        save(trainer)
        saved.append(trainer.state.step)
        if len(saved) == 2:
            raise StopError

    monkeypatch.setattr(Trainer, "save", saving)
    with pytest.raises(StopError):
        learn(**values)
    monkeypatch.setattr(Trainer, "save", save)
    assert saved == [2, 4]
    one, two = (load_file(f / "weights.safetensors") for f in (whole, learn(**values)))
    assert all(torch.equal(one[name], two[name]) for name in one)
