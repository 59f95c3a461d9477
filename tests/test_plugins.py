"""Parts of other packages that settings name."""

import hashlib
import json
import sys

import pytest

from l2s_pydra.augmentation import build_augmentation
from l2s_pydra.config import AugmentationConfig, LearnConfig
from l2s_pydra.errors import ConfigError
from l2s_pydra.plugins import load_plugin, plugin_code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a module that can be rewritten, on the path."""
    folder = tmp_path / "mypackage"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "fog.py").write_text("def build(*, ndim, group_names):\n    return 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in ("mypackage", "mypackage.fog"):
        sys.modules.pop(name, None)


def test_what_is_named_is_imported(package):
    assert load_plugin("mypackage.fog")(ndim=3, group_names=()) == 3
    assert load_plugin("mypackage.fog:build") is load_plugin("mypackage.fog")


def test_the_code_is_the_name_and_the_checksum_of_the_file(package):
    digest = hashlib.sha256((package / "fog.py").read_bytes()).hexdigest()
    assert plugin_code("mypackage.fog") == f"mypackage.fog@sha256:{digest}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.fog", r"'nowhere.fog' cannot be imported \(No module named 'nowhere'\); install"),
        ("mypackage.mist", r"cannot be imported \(No module named 'mypackage.mist'\); install"),
        ("mist:build", r"cannot be imported \(No module named 'mist'\); install its package, or"),
        (".fog", r"'.fog' cannot be imported"),
        ("mypackage.fog:thin", r"mypackage.fog has no function 'thin'; define it, or name another"),
    ],
)
def test_what_cannot_be_imported_is_refused(name, message, package):
    with pytest.raises(ConfigError, match=message):
        build_augmentation(name, ndim=3, group_names=())


def test_what_is_no_augmentation_is_refused(package):
    with pytest.raises(ConfigError, match="build returned int, which is no subclass of"):
        build_augmentation("mypackage.fog", ndim=3, group_names=())


def test_settings_keep_the_checksum(package):
    config = LearnConfig().evolve(augmentation__name="mypackage.fog")
    assert config.augmentation.code == plugin_code("mypackage.fog")
    assert LearnConfig().augmentation.code is None
    assert config.evolve(augmentation__name="noise").augmentation.code is None
    again = config.evolve(augmentation__name="mypackage.fog:build").augmentation.code
    assert again == plugin_code("mypackage.fog:build")


def test_settings_of_a_trained_model_need_no_module(package):
    text = LearnConfig().evolve(augmentation__name="mypackage.fog").to_json()
    (package / "fog.py").unlink()
    assert LearnConfig.from_dict(json.loads(text)).augmentation.name == "mypackage.fog"
    with pytest.raises(ConfigError, match="cannot be imported"):
        AugmentationConfig(name="mypackage.fog")


def test_a_changed_file_is_another_augmentation(package):
    before = AugmentationConfig(name="mypackage.fog")
    before.check_code()
    with (package / "fog.py").open("a") as file:
        file.write("# thicker\n")
    assert AugmentationConfig(name="mypackage.fog") != before
    with pytest.raises(
        ConfigError, match=r"'mypackage.fog' is not what it was when these settings"
    ):
        before.check_code()
