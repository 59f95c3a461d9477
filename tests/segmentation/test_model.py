"""Model folders: what is written is what is read, and what is broken is named."""

import hashlib
import json

import attrs
import pytest
import torch

from l2s_pydra.config import preset
from l2s_pydra.errors import ModelError
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.segmentation import Model, Segmenter, predict_posteriors

FILES = ("weights.safetensors", "config.json", "labels.tsv")


@pytest.fixture
def scheme():
    return LabelScheme(
        [Label(index=10, name="Left-Thalamus"), Label(index=49, name="Right-Thalamus")]
    )


@pytest.fixture
def image():
    return torch.rand(20, 16, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(scheme):
    torch.manual_seed(0)
    learn = preset("quick").evolve(segmenter__width=4, segmenter__depth=2, spacing_mm=2.5)
    record = {
        "learn": learn.to_dict(),
        "segmentation": "thalami",
        "name": "learn2synth12345678",
        "version": "0.1.0",
        "theta": {"noise": 0.03},
        "best_dice": 0.5,
        "skull_stripped": False,
    }
    return Model(segmenter=Segmenter(learn.segmenter, 3), scheme=scheme, config=record)


@pytest.fixture
def folder(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_comes_back(model, folder, image):
    again = Model.load(folder)
    assert again.scheme == model.scheme
    assert again.config == json.loads(json.dumps(model.config))
    assert again.learn_config == model.learn_config
    assert (again.name, again.spacing_mm) == ("learn2synth12345678", 2.5)
    theirs = again.segmenter.state_dict()
    for key, value in model.segmenter.state_dict().items():
        assert torch.equal(theirs[key], value)
    torch.testing.assert_close(again.posteriors(image), model.posteriors(image), rtol=0, atol=0)


def test_the_checksum_is_that_of_the_weights(model, folder, tmp_path):
    content = (folder / "weights.safetensors").read_bytes()
    expected = hashlib.sha256(content).hexdigest()
    assert Model.load(folder).sha256 == expected
    assert model.save(tmp_path / "again") == expected


def test_files_may_lie_anywhere(folder, tmp_path):
    places = []
    for i, name in enumerate(FILES):
        places.append(tmp_path / f"file{i}{name[name.index('.') :]}")
        (folder / name).rename(places[-1])
    assert Model.load_files(*places).name == "learn2synth12345678"


def test_posteriors_average_the_mirror_image(model, image):
    options = {"precision": model.learn_config.training.precision}
    straight = predict_posteriors(model.segmenter, image, **options)
    both = predict_posteriors(model.segmenter, image, opposite=(0, 2, 1), **options)
    torch.testing.assert_close(model.posteriors(image, flip=False), straight)
    torch.testing.assert_close(model.posteriors(image), both)


def test_no_mirror_image_where_a_side_has_no_counterpart(model, image):
    labels = [Label(index=10, name="Left-Thalamus"), Label(index=16, name="Stem")]
    odd = attrs.evolve(model, scheme=LabelScheme(labels))
    assert not odd.scheme.mirrors
    torch.testing.assert_close(odd.posteriors(image), model.posteriors(image, flip=False))


def error_of(folder):
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert error_of(folder).startswith(f"{folder / name}: missing")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 400, b"[1, 2]"], ids=range(3))
def test_a_broken_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    assert str(folder / name) in error_of(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if name == "labels.tsv":
        path.write_text("index\tnam")
    assert str(path) in error_of(folder)


@pytest.mark.parametrize("missing", ["learn", "name", "segmentation"])
def test_an_incomplete_record_is_named(folder, missing):
    path = folder / "config.json"
    record = json.loads(path.read_text())
    del record[missing]
    path.write_text(json.dumps(record))
    message = error_of(folder)
    assert message.startswith(str(path))
    assert missing in message


def test_a_setting_of_another_version_is_named(folder):
    path = folder / "config.json"
    record = json.loads(path.read_text())
    record["learn"]["segmenter"]["dilation"] = 2
    path.write_text(json.dumps(record))
    assert "unknown setting 'dilation'" in error_of(folder)


def test_weights_of_another_network(folder):
    path = folder / "config.json"
    record = json.loads(path.read_text())
    record["learn"]["segmenter"]["width"] = 8
    path.write_text(json.dumps(record))
    message = error_of(folder)
    assert message.startswith(str(folder / "weights.safetensors"))
    assert str(path) in message


def test_labels_of_another_model(folder):
    LabelScheme.from_indices([1, 2, 3, 4]).write(folder / "labels.tsv")
    message = error_of(folder)
    assert str(folder / "labels.tsv") in message
    assert str(folder / "weights.safetensors") in message
