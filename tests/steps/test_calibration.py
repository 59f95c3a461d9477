"""The score is fitted when a model is learned, to what the model makes of the validation scans."""

import json

import numpy as np
import pytest

from l2s_pydra.labels import LabelScheme
from l2s_pydra.segmentation import Model
from l2s_pydra.steps import calibration
from l2s_pydra.steps.calibration import calibrate_quality
from l2s_pydra.steps.learn import learn
from l2s_pydra.steps.quality import soft_measures


def test_a_model_is_learned_with_its_calibration(inputs, monkeypatch):
    seen = []

    def watched(model, scans, **options):
        seen.append((model, list(scans)))
        return calibrate_quality(model, scans, **options)

    monkeypatch.setattr("l2s_pydra.steps.learn.calibrate_quality", watched)
    folder = learn(**inputs(), threads=1)
    quality = json.loads((folder / "config.json").read_text())["quality"]
    names = LabelScheme.read(folder / "labels.tsv").names[1:]
    assert list(quality["lines"]) == sorted(names)
    # One validation scan: the slope stays 1 and there is nothing to leave out
    assert quality["images"] == 1
    assert quality["error"] is None
    assert {line["slope"] for line in quality["lines"].values()} == {1.0}
    ((_, (scan,)),) = seen
    posterior = Model.load(folder).posteriors(scan.image)
    found = soft_measures(posterior).self_dice
    assert np.isfinite(found[0])
    truth = scan.target.argmax(0) if scan.target.ndim == 4 else scan.target
    winner = posterior.argmax(0)
    for channel, name in enumerate(names, start=1):
        line = quality["lines"][name]
        if line["images"]:
            both = ((winner == channel) & (truth == channel)).sum()
            total = (winner == channel).sum() + (truth == channel).sum()
            assert line["validation_dice"] == pytest.approx(float(2 * both / total), abs=2e-3)


def test_nothing_to_fit_to_is_no_calibration(make_model):
    assert calibration.calibrate_quality(Model.load(make_model()), []) == {}
