"""A synthesis is learned in one training and given to another."""

import json

import pytest

from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import ConfigError
from l2s_pydra.steps.train import learn_synthesis, train_segmenter, with_synthesis


@pytest.fixture(scope="module")
def noted():
    """Models that tests of this module share, by name."""
    return {}


@pytest.fixture
def learned(inputs, config, noted, tmp_path_factory):
    """Model folder of a learned synthesis, every draw of which is learned or wide by chance."""
    if "learned" not in noted:
        settings = config(
            training__wide_share=0.3,
            training__estimator="one_sided_difference",
            training__epsilon=0.01,
            synthesis__bias_std=0.4,
        )
        out_dir = tmp_path_factory.mktemp("learned")
        noted["learned"] = learn_synthesis(**inputs(config=settings, out_dir=out_dir))
    return noted["learned"]


def generator_of(folder):
    return json.loads((folder / "generator.json").read_text())


def test_a_generator_goes_from_one_training_to_the_next(learned, inputs, config):
    """What the second says of its generator is what the first said, and its theta stays."""
    given = inputs(config=config(training__steps=1), generator=learned / "generator.json")
    trained = train_segmenter(**given)
    one, other = generator_of(learned), generator_of(trained)
    differ = {name for name in one if one[name] != other[name]}
    assert differ - {"learned_share"} == {"model", "mode"}
    assert other["learned_share"] == pytest.approx(one["learned_share"])
    theta = json.loads((trained / "theta.json").read_text())
    assert theta["start"] == theta["final"] == theta["average"]
    average = json.loads((learned / "theta.json").read_text())["average"]
    assert theta["final"] == pytest.approx(average, rel=1e-4)
    assert theta["hypergradient_steps"] == 0


def test_given_values_reach_the_images(learned, inputs, config):
    """Trainings that differ in theta alone end with other weights; those without it do not use it."""
    settings = config(training__steps=1, synthesis__bias_std=0.2)
    wide = train_segmenter(**inputs(config=settings))
    given = train_segmenter(**inputs(config=settings, theta=learned / "theta.json"))
    assert generator_of(given)["learned"]
    assert not generator_of(wide)["learned"]
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (wide, given)]
    assert weights[0] != weights[1]
    # The generator of the former gives its ranges, and no theta.
    found = with_synthesis(LearnConfig(), generator=wide / "generator.json")
    assert found.synthesis.bias_std == 0.2
    assert found.augmentation.theta is None


def test_learning_goes_on_from_a_given_theta(learned, inputs, config):
    theta = json.loads((learned / "theta.json").read_text())
    settings = config(training__steps=1, augmentation__theta=theta)
    folder = learn_synthesis(**inputs(config=settings))
    start = json.loads((folder / "theta.json").read_text())["start"]
    assert start == pytest.approx(theta["average"], rel=1e-4)


def test_settings_of_a_generator(learned):
    found = with_synthesis(LearnConfig(), generator=learned / "generator.json")
    original = LearnConfig.from_dict(json.loads((learned / "config.json").read_text())["learn"])
    assert found.synthesis == original.synthesis
    assert found.augmentation.name == "contrast"
    assert found.training.wide_share == pytest.approx(0.3)
    assert found.spacing_mm == LearnConfig().spacing_mm


def test_priors(learned, tmp_path):
    found = with_synthesis(LearnConfig(), priors=learned / "priors.json")
    values = json.loads((learned / "priors.json").read_text())
    assert {name: list(four) for name, four in found.synthesis.priors.items()} == values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be used as a generator.json"),
        ("[]", "cannot be used as a generator.json"),
        ("{}", "is no generator.json of a model folder"),
        (
            '{"format": "l2s_pydra generator", "format_version": "2.0", "version": "3.1"}',
            r"has the form 2.0, 1.0 is known; use the version of l2s_pydra that wrote it \(3.1\)",
        ),
    ],
)
def test_files_that_are_no_generator(tmp_path, content, message):
    path = tmp_path / "generator.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        with_synthesis(LearnConfig(), generator=path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["theta", "priors"])
@pytest.mark.parametrize("content", ["[", "3", '{"mean/a": "dark"}'])
def test_files_that_are_no_values(tmp_path, name, content):
    path = tmp_path / "values.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        with_synthesis(LearnConfig(), **{name: path})
    assert str(path) in str(caught.value)


def test_either_a_generator_or_theta(tmp_path):
    with pytest.raises(ConfigError, match="give either"):
        with_synthesis(LearnConfig(), generator=tmp_path / "g", theta=tmp_path / "t")


def test_modes_belong_to_steps(config):
    with pytest.raises(ConfigError, match=r"no synthesis is learned.*TrainSegmenter"):
        learn_synthesis(config=config(training__mode="synthseg"))
    with pytest.raises(ConfigError, match="'learn2synth' is not one with a given synthesis"):
        train_segmenter(config=config(), mode="learn2synth")
