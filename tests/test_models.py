"""Models that come with the package."""

import hashlib
import shutil

import pytest

from l2s_pydra import load_model, models
from l2s_pydra.config import preset
from l2s_pydra.errors import ModelError
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.segmentation import Model, Segmenter
from l2s_pydra.workflows.model_files import find_model


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """Folder of a model that knows nothing."""
    folder = tmp_path_factory.mktemp("model")
    learn = preset("quick").evolve(segmenter__width=1, segmenter__depth=1)
    scheme = LabelScheme([Label(index=2, name="tissue")])
    config = {"learn": learn.to_dict(), "segmentation": "tissue", "name": "tiny", "version": "0"}
    Model(segmenter=Segmenter(learn.segmenter, 2), scheme=scheme, config=config).save(folder)
    return folder


@pytest.fixture
def packaged(tiny_model, tmp_path, monkeypatch):
    """The package with a model ``default``; the model's folder."""
    folder = tmp_path / "package" / "default"
    shutil.copytree(tiny_model, folder)
    models.write_checksums(folder)
    monkeypatch.setattr(models, "ROOT", folder.parent)
    return folder


def test_what_comes_with_the_package_is_whole():
    for name in models.packaged_models():
        folder = models.packaged_model(name)
        assert sum(path.stat().st_size for path in folder.rglob("*")) < 25e6
        listed = (folder / models.CHECKSUMS).read_text()
        for file in ("weights.safetensors", "config.json", "labels.tsv", "MODELCARD.md"):
            assert f"  {file}\n" in listed


def test_checksums_are_those_of_sha256sum(packaged):
    digest = hashlib.sha256((packaged / "labels.tsv").read_bytes()).hexdigest()
    assert f"{digest}  labels.tsv\n" in (packaged / models.CHECKSUMS).read_text()


def test_the_default_model_is_found_by_name_and_without_one(packaged, tmp_path, caplog):
    caplog.set_level("INFO")
    assert models.packaged_models() == ("default",)
    assert find_model("default", tmp_path).folder == packaged
    assert not caplog.messages
    assert find_model(None, tmp_path).folder == packaged
    assert caplog.messages == ["nothing was learned here: taking tiny, the model of the package"]
    assert load_model("default").path == packaged


def test_a_model_of_the_output_comes_first(packaged, tiny_model, tmp_path):
    own = tmp_path / "models" / "model-own"
    shutil.copytree(tiny_model, own)
    assert find_model(None, tmp_path).folder == own
    assert find_model("default", tmp_path).folder == packaged


def test_a_folder_of_the_same_name_can_be_given(packaged, tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "default")
    monkeypatch.chdir(tmp_path)
    assert find_model("./default", tmp_path).folder == (tmp_path / "default").resolve()
    assert load_model("./default").path.resolve() == (tmp_path / "default").resolve()


@pytest.mark.parametrize("file", ["weights.safetensors", "config.json", "labels.tsv"])
@pytest.mark.parametrize("gone", [False, True])
def test_files_that_were_changed_are_refused(packaged, tmp_path, file, gone):
    path = packaged / file
    if gone:
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    for find in (models.packaged_model, load_model, lambda name: find_model(name, tmp_path)):
        with pytest.raises(ModelError, match=rf"{file}.*install l2s_pydra again"):
            find("default")


def test_a_model_that_does_not_come_with_the_package(packaged):
    with pytest.raises(ModelError, match=r"no model 'other'.*available: default"):
        models.packaged_model("other")


def test_without_models(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ROOT", tmp_path)
    assert models.packaged_models() == ()
    with pytest.raises(ModelError, match="available: none"):
        models.packaged_model()
    with pytest.raises(ModelError, match="level learn first"):
        find_model(None, tmp_path)
