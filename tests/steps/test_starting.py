"""Trainings that start from the weights of a model."""

import json

import pytest
import torch
from safetensors.torch import load_file

from l2s_pydra.errors import ModelError, TrainingError
from l2s_pydra.segmentation import Model
from l2s_pydra.steps.learn import learn


@pytest.fixture
def first(inputs, config, tmp_path):
    settings = config(training__mode="synthseg")
    return learn(**{**inputs(config=settings), "out_dir": tmp_path / "first"})


def test_the_training_goes_on_from_there(first, inputs, config):
    # At a rate of next to nothing, what is written is what it started from.
    still = config(
        spacing_mm=10.0,
        training__mode="supervised",
        training__learning_rate=1e-12,
        training__steps=2,
    )
    folder = learn(**inputs(config=still), start_from=first)
    old, new = (load_file(each / "weights.safetensors") for each in (first, folder))
    for name in old:
        torch.testing.assert_close(old[name], new[name], rtol=0, atol=1e-9)
    record = json.loads((folder / "config.json").read_text())
    model = Model.load(first)
    assert record["start_from"] == {"name": model.name, "sha256": model.sha256, "spacing_mm": 8.0}
    card = (folder / "MODELCARD.md").read_text()
    assert f"Started from the weights of {model.name} (8 mm, sha256 {model.sha256})" in card
    assert json.loads((first / "config.json").read_text())["start_from"] is None
    assert "Started from" not in (first / "MODELCARD.md").read_text()


def test_network_and_labels_must_be_the_same(first, inputs, config, tmp_path):
    with pytest.raises(ModelError, match=r"segmenter.width 4, not 5; set segmenter.width=4"):
        learn(**inputs(config=config(segmenter__width=5)), start_from=first)
    given = inputs(config=config())
    header, *rows = given["real_table"].read_text().splitlines()
    place = header.split("\t").index("name")
    cells = rows[-1].split("\t")
    cells[place] += "s"
    table = tmp_path / "other.tsv"
    table.write_text("\n".join([header, *rows[:-1], "\t".join(cells)]) + "\n")
    with pytest.raises(ModelError, match="writes other labels than the new model"):
        learn(**{**given, "real_table": table}, start_from=first)


def test_a_checkpoint_of_another_start_is_refused(first, inputs, config, tmp_path):
    given = {**inputs(config=config()), "checkpoint_dir": tmp_path / "checkpoints"}
    learn(**given)
    with pytest.raises(TrainingError, match="other settings or data"):
        learn(**given, start_from=first)
