"""Finding the model to segment with."""

import shutil

import pytest

from l2s_pydra import models
from l2s_pydra.errors import ModelError
from l2s_pydra.workflows.model_files import ModelFiles, find_model


@pytest.fixture
def output(model, tmp_path):
    """Output folder with one model."""
    shutil.copytree(model, tmp_path / "models" / model.name)
    return tmp_path


def test_the_only_model_is_found(output, model):
    found = find_model(None, output)
    assert found.folder.name == model.name
    assert f"model-{found.name}" == model.name
    assert found.segmentation == "tissue"
    assert len(found.description["sha256"]) == 64


def test_a_model_is_found_by_folder_and_by_name(output, model):
    name = model.name.removeprefix("model-")
    for wanted in (str(model), model.name, name):
        assert find_model(wanted, output).name == name


def test_several_models_have_to_be_told_apart(output, model):
    shutil.copytree(model, output / "models" / "model-other")
    with pytest.raises(ModelError, match=r"model-other.*--model"):
        find_model(None, output)


def test_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ROOT", tmp_path / "package")
    with pytest.raises(ModelError, match="level learn first"):
        find_model(None, tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        find_model("mine", tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "labels.tsv"])
def test_a_model_without_a_file_is_none(output, model, name):
    folder = output / "models" / model.name
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        ModelFiles.read(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_broken_configuration(output, model, content):
    folder = output / "models" / model.name
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelFiles.read(folder)
