"""From a training to the verdicts on its model's page."""

import json

import pytest

from l2s_pydra.steps.learn import learn
from l2s_pydra.steps.report_model import report_model


@pytest.fixture
def page(inputs, config, tmp_path):
    """Train for some steps and return the facts, and the source of the page."""

    def page(**changes):
        settings = config(
            ndim=2, augmentation__name="noise_bias", training__estimator="one_sided_difference",
            training__epsilon=0.01, training__precision="fp32", training__validate_every=100,
            **changes,
        )  # fmt: skip
        folder = learn(**inputs(config=settings))
        text = report_model(folder, folder / "report.html").read_text()
        path = folder / "identifiability.json"
        return json.loads(path.read_text()) if path.is_file() else None, text

    return page


def test_verdicts_reach_the_page(page):
    facts, text = page(training__steps=36)
    assert facts["steps"] == facts["blocks"] == 35
    names = [value["name"] for value in facts["values"]]
    assert names == ["sigma", "exponent_2", "exponent_4", "exponent_8", "log_bias_std"]
    assert facts["correlation"]["names"] == names[:4]
    assert all(value["wander"] > 0 for value in facts["values"])
    assert "Judged from 35 gradients" in text
    assert 'src="figures/correlations.png"' in text
    assert 'href="identifiability.json"' in text


def test_a_short_training_claims_nothing(page):
    facts, text = page(training__steps=4)
    assert {value["verdict"] for value in facts["values"]} == {"unknown"}
    assert "too few steps to tell" in text


def test_baselines_have_no_verdicts(page):
    facts, text = page(training__steps=4, training__mode="synthseg")
    assert facts is None
    assert "What the data determine" not in text
