"""Models, settings and tables from outside: what they cannot make us do."""

import json
import os
import pickle
import struct
import zipfile

import pytest
import safetensors.torch
import torch

from l2s_pydra.bids.derivatives import derivative_path
from l2s_pydra.bids.images import read_filters
from l2s_pydra.config import LearnConfig, preset
from l2s_pydra.errors import ConfigError, DatasetError, LabelError, ModelError
from l2s_pydra.jsonfiles import read_json
from l2s_pydra.labels import Label, LabelScheme, read_mapping
from l2s_pydra.segmentation import Model, Segmenter
from l2s_pydra.segmentation.weights import read_weights
from l2s_pydra.steps.outputs import IMAGE_OUTPUTS
from l2s_pydra.workflows.learn_settings import learn_config
from l2s_pydra.workflows.model_files import ModelFiles, find_model

BOMB = "[" * 200_000
HOSTILE_NAMES = ["../../x", "/etc/x", "a/b", "", "x\n", ".hidden", "a" * 101, None, 3, ["x"]]


@pytest.fixture
def folder(tmp_path):
    learn = preset("quick").evolve(segmenter__width=2, segmenter__depth=2)
    record = {"learn": learn.to_dict(), "segmentation": "thalami", "name": "m1", "version": "0"}
    scheme = LabelScheme([Label(index=10, name="Left-Thalamus")])
    model = Model(segmenter=Segmenter(learn.segmenter, 2), scheme=scheme, config=record)
    model.save(tmp_path / "model")
    return tmp_path / "model"


def change(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Evil:
    """Runs when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


def write_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
def test_a_pickle_in_place_of_weights_is_refused_unopened(folder, tmp_path, kind):
    place, weights = tmp_path / "ran", folder / "weights.safetensors"
    evil = pickle.dumps(Evil(str(place)))
    if kind == "pickle":
        weights.write_bytes(evil)
    elif kind == "torch":
        torch.save({"x": torch.zeros(2)}, weights)
    else:
        write_zip(weights, evil)
    with pytest.raises(ModelError, match="may hold code; only safetensors are read") as error:
        Model.load(folder)
    assert str(weights) in str(error.value)
    assert not place.exists()


def header_of(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda entry: entry.update(shape=[2**40, 2**20]), "has the shape"),
        (lambda entry: entry.update(shape=3), "has the shape"),
        (lambda entry: entry.update(dtype="I64"), "of type I64"),
        (lambda entry: entry.pop("dtype"), "of type None"),
        (lambda entry: entry.update(data_offsets=[0, 2**50]), "do not fit"),
    ],
)
def test_a_header_that_lies_is_refused(folder, edit, said):
    weights = folder / "weights.safetensors"
    header, data = header_of(weights)
    edit(header[next(name for name in header if name != "__metadata__")])
    write_header(weights, header, data)
    with pytest.raises(ModelError, match=said):
        Model.load(folder)


def test_more_bytes_than_the_network_has_are_refused(folder):
    weights = folder / "weights.safetensors"
    header, data = header_of(weights)
    write_header(weights, header, data + bytes(4096))
    with pytest.raises(ModelError, match="bytes follow the header"):
        Model.load(folder)
    write_header(weights, {**header, "more": dict(header.popitem()[1])}, data)
    with pytest.raises(ModelError, match="do not fit"):
        Model.load(folder)


@pytest.mark.parametrize("start", [b"\xff" * 8, struct.pack("<Q", 2**40), struct.pack("<Q", 9)])
def test_a_header_of_any_length_is_refused(folder, start):
    (folder / "weights.safetensors").write_bytes(start + BOMB.encode())
    with pytest.raises(ModelError, match="no safetensors file"):
        Model.load(folder)


@pytest.mark.parametrize("width", [2**31, 4096])
def test_a_network_too_large_for_memory_is_never_made(folder, width):
    learn = LearnConfig().to_dict()
    learn["segmenter"] |= {"width": width, "depth": 10, "max_width": 65536}
    change(folder, learn=learn)
    with pytest.raises(ModelError):  # out of range, or of another shape than the weights
        Model.load(folder)


@pytest.mark.parametrize("key", ["name", "segmentation"])
@pytest.mark.parametrize("value", HOSTILE_NAMES)
def test_names_lead_out_of_no_folder(folder, key, value):
    change(folder, **{key: value})
    for read in (Model.load, ModelFiles.read):
        with pytest.raises(ModelError, match=r"config\.json"):
            read(folder)


@pytest.mark.parametrize("content", [BOMB, " " * (17 * 2**20), "\x00", '{"a": ' * 100_000])
def test_bombs_are_named(tmp_path, folder, content):
    path = tmp_path / "bomb.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"bomb\.json"):
        LearnConfig.read(path)
    with pytest.raises(DatasetError, match=r"bomb\.json"):
        read_filters(path)
    with pytest.raises(ConfigError, match=r"bomb\.json"):
        learn_config({"preset": "quick", "set": [f"synthesis.priors=@{path}"]})
    (folder / "config.json").write_text(content)
    for read in (Model.load, ModelFiles.read):
        with pytest.raises(ModelError, match=r"config\.json"):
            read(folder)


def test_a_bomb_on_the_command_line_is_no_setting():
    with pytest.raises(ConfigError):
        learn_config({"preset": "quick", "set": [f"training.steps={BOMB}"]})


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, "/dev/zero"):
        with pytest.raises((ValueError, OSError)):
            read_json(path)


@pytest.mark.parametrize(
    "name", ["a\nb", "a\tb", "a\x1b[31mb", "\u202eabc", "x" * 201], ids=range(5)
)
def test_names_of_labels_are_printable(tmp_path, name):
    with pytest.raises(LabelError, match="control characters"):
        Label(index=1, name=name)
    table = tmp_path / "labels.tsv"
    table.write_text(f'index\tname\n1\t"{name}"\n', encoding="utf-8")
    with pytest.raises(LabelError, match=r"labels\.tsv"):
        LabelScheme.read(table)


def test_tables_of_labels_are_small(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text("index\tname\n" + " " * (17 * 2**20))
    for read in (LabelScheme.read, read_mapping):
        with pytest.raises(LabelError, match="larger than"):
            read(table)


@pytest.mark.parametrize(
    "entities",
    [
        {"subject": "../../x"},
        {"subject": "/x"},
        {"subject": "01", "session": ".."},
        {"subject": "01", "../../x": "a"},
        {"subject": "01", "suffix": "../T1w"},
    ],
)
def test_entities_lead_out_of_no_folder(entities):
    with pytest.raises(DatasetError):
        derivative_path({"suffix": "T1w", **entities}, IMAGE_OUTPUTS["dseg"], segmentation="x")
    with pytest.raises(DatasetError):
        derivative_path(
            {"subject": "1", "suffix": "T1w"}, IMAGE_OUTPUTS["dseg"], segmentation="../x"
        )


def test_a_model_by_name_is_one_of_the_derivative(folder, tmp_path):
    """A name with ``..`` is a path: it may be read, as the user's own, and names nothing."""
    models = tmp_path / "out" / "models"
    models.mkdir(parents=True)
    found = find_model(f"{models}/../../model", tmp_path / "out")
    assert found.folder == folder.resolve()
    assert not found.is_in(tmp_path / "out")
    with pytest.raises(ModelError, match="no such folder"):
        find_model("../../nowhere", tmp_path / "out")


def test_a_length_that_looks_like_a_pickle_is_one_all_the_same(tmp_path):
    """The first bytes of a safetensors file are the length of its header, here 80 04 00 ..."""
    path, tensors = tmp_path / "weights.safetensors", {"a": torch.zeros(2)}
    for count in range(1200):
        safetensors.torch.save_file(tensors, path, metadata={"note": "x" * count})
        if path.read_bytes().startswith(b"\x80\x04"):
            break
    assert path.read_bytes().startswith(b"\x80\x04")
    assert list(read_weights(path, {"a": [2]})) == ["a"]
