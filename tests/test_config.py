"""Settings: defaults, JSON, checks, presets."""

import json

import attrs
import pytest

from l2s_pydra.config import (
    PRESETS,
    AugmentationConfig,
    LearnConfig,
    SegmenterConfig,
    SynthesisConfig,
    TrainingConfig,
    field_doc,
    preset,
)
from l2s_pydra.errors import ConfigError

SECTIONS = (SynthesisConfig, SegmenterConfig, AugmentationConfig, TrainingConfig)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_json_comes_back(name, ndim, tmp_path):
    config = preset(name, ndim=ndim)
    assert config.segmenter.ndim == ndim
    path = tmp_path / "config.json"
    path.write_text(config.to_json(), encoding="utf-8")
    assert LearnConfig.read(path) == config
    assert LearnConfig.from_dict(config.to_dict()) == config


def test_a_partial_dict_keeps_the_defaults():
    config = LearnConfig.from_dict({"spacing_mm": 2, "training": {"steps": 3}})
    assert config == LearnConfig().evolve(spacing_mm=2, training__steps=3)
    assert config.training.batch_size == LearnConfig().training.batch_size


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"spacing": 1}, "unknown setting 'spacing' in LearnConfig; available: augmentation, "),
        ({"training": {"stepz": 1}}, "unknown setting 'stepz' in TrainingConfig"),
        ({"training": {"steps": 0}}, "TrainingConfig: 'steps' must be"),
        ({"training": {"steps": 2.5}}, "TrainingConfig: 'steps' must be"),
        ({"training": {"steps": "many"}}, "TrainingConfig: "),
        ({"training": {"wide_share": 1.5}}, "TrainingConfig: 'wide_share' must be"),
        ({"training": {"mode": "magic"}}, "TrainingConfig: 'mode' must be in"),
        ({"training": {"learning_rate": float("nan")}}, "TrainingConfig: 'learning_rate'"),
        ({"segmenter": {"width": 1.5}}, "SegmenterConfig: 'width' must be"),
        ({"segmenter": {"ndim": 4}}, "SegmenterConfig: 'ndim' must be in"),
        ({"synthesis": {"mean_range": [0.9, 0.1]}}, "SynthesisConfig: "),
        ({"synthesis": {"mean_range": 1}}, "SynthesisConfig: "),
        ({"synthesis": {"scaling": 1.0}}, "SynthesisConfig: 'scaling' must be"),
        ({"synthesis": None}, "SynthesisConfig"),
        ({"augmentation": {"options": 3}}, "AugmentationConfig: "),
        ({"spacing_mm": 0}, "LearnConfig: 'spacing_mm' must be"),
        (None, "LearnConfig"),
        ([1], "LearnConfig"),
    ],
)
def test_wrong_settings_are_named(values, said, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        LearnConfig.from_dict(values)
    assert said in str(error.value)
    with pytest.raises(ConfigError) as error:
        LearnConfig.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", None])
def test_unreadable_files_are_named(content, tmp_path):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be used as a configuration") as error:
        LearnConfig.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("key", ["spacing", "nowhere__steps", "training__stepz", "training__steps"])
def test_evolve_checks_as_well(key):
    with pytest.raises(ConfigError):
        LearnConfig().evolve(**{key: -1})


def test_evolve_leaves_the_original_alone():
    config = LearnConfig()
    config.evolve(augmentation__options={"mean": 0.2}, training__steps=7)
    assert config == LearnConfig()


def test_unknown_preset():
    with pytest.raises(ConfigError, match="unknown preset 'fast'; available: quick, default"):
        preset("fast")


@pytest.mark.parametrize("kind", [*SECTIONS, LearnConfig])
def test_every_setting_is_explained(kind):
    for field in attrs.fields(kind):
        assert field_doc(kind, field.name).endswith("."), f"{kind.__name__}.{field.name}"
        assert field.kw_only


def test_slabs_of_no_thickness_are_refused():
    with pytest.raises(ConfigError, match=r"coverage_most_mm, 10, is below coverage_least_mm, 15"):
        LearnConfig().evolve(synthesis__coverage_most_mm=10)
    kept = LearnConfig().evolve(synthesis__coverage_least_mm=10, synthesis__coverage_most_mm=10)
    assert LearnConfig.from_dict(kept.to_dict()) == kept
