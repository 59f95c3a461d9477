"""The whole way from files to a model folder, on the phantom."""

import json
import re

import nibabel as nb
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from l2s_pydra import __version__
from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import ConfigError, DatasetError, GridMismatchError, L2SError, LabelError
from l2s_pydra.images import load_image
from l2s_pydra.labels import LabelScheme
from l2s_pydra.segmentation import Model
from l2s_pydra.steps.learn import learn
from l2s_pydra.steps.progress import Progress

STEPS = 4
FILES = {
    "weights.safetensors",
    "config.json",
    "labels.tsv",
    "training.tsv",
    "splits.tsv",
    "theta.json",
    "estimator.json",
    "identifiability.json",
    "generator.json",
    "priors.json",
    "priors.tsv",
    "priors_columns.json",
    "MODELCARD.md",
    "samples/learned.npz",
    "samples/wide.npz",
    "samples/real.npz",
}


def read_tsv(path):
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def no_constants(name):
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", ["learn2synth", "synthseg", "supervised"])
def test_model_folder(inputs, config, ndim, mode):
    settings = config(ndim, training__mode=mode)
    given = inputs(config=settings)
    folder = learn(**given)
    assert folder.parent == given["out_dir"]
    assert re.fullmatch(rf"model-{mode}[0-9a-f]{{8}}", folder.name)
    assert [p.name for p in given["out_dir"].iterdir()] == [folder.name]
    files = FILES if mode == "learn2synth" else FILES - {"estimator.json", "identifiability.json"}
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == files

    record = json.loads((folder / "config.json").read_text(), parse_constant=no_constants)
    assert record["name"] == folder.name.removeprefix("model-")
    assert record["segmentation"] == "tissue"
    assert record["version"] == __version__
    assert LearnConfig.from_dict(record["learn"]) == LearnConfig.from_dict(settings)
    assert set(record["validation_dice"]) == set(LabelScheme.read(given["real_table"]).names[1:])
    assert record["label_maps"] == [path.name for path in given["label_maps"]]
    assert record["skull_stripped"] is False
    assert record["device"] == "cpu"
    weights = load_file(folder / "weights.safetensors")
    assert record["parameters"] == sum(w.numel() for w in weights.values())

    assert LabelScheme.read(folder / "labels.tsv") == LabelScheme.read(given["real_table"])
    assert read_tsv(folder / "splits.tsv") == [
        {"participant_id": p, "role": r, "image": i.name}
        for p, r, i in zip(given["participants"], given["roles"], given["images"], strict=True)
    ]

    log = read_tsv(folder / "training.tsv")
    assert [int(row["step"]) for row in log] == [1, 2, 3, 4]
    validated = [float(row["validation_dice"]) for row in log if row["validation_dice"] != "n/a"]
    assert len(validated) == 2
    assert record["best_dice"] == pytest.approx(max(validated), rel=1e-5)
    assert all((row["real_loss"] != "n/a") == (mode == "learn2synth" and i > 0)
               for i, row in enumerate(log))  # fmt: skip

    theta = json.loads((folder / "theta.json").read_text(), parse_constant=no_constants)
    assert theta["hypergradient_steps"] == (STEPS - 1 if mode == "learn2synth" else 0)
    assert (theta["final"] != theta["start"]) == (mode == "learn2synth")
    assert theta["average"] == record["theta"]
    assert {"bias", "noise", "mean/White-Matter", "spread/Putamen"} <= set(theta["start"])

    card = (folder / "MODELCARD.md").read_text()
    assert record["name"] in card
    assert ("Hypergradient: " in card) == (mode == "learn2synth")
    if mode == "learn2synth":
        checks = json.loads((folder / "estimator.json").read_text(), parse_constant=no_constants)
        assert checks["asked_for"] == "auto"
        assert {"step", "estimator", "error", "cosine", "reason", "tried"} <= set(
            checks["checks"][0]
        )
        assert f"Hypergradient: {record['estimator']}." in card
    assert "sub-01, sub-02 " in card
    assert f"| Gray-Matter | {record['validation_dice']['Gray-Matter']:.3f} |" in card
    assert f"{ndim}-D U-Net ({record['parameters']:,} parameters)" in card


def test_the_model_segments(inputs):
    given = inputs()
    model = Model.load(learn(**given))
    assert model.scheme.names[1:4] == ("CSF", "Gray-Matter", "White-Matter")
    posteriors = model.posteriors(torch.from_numpy(load_image(given["images"][0]).data))
    assert posteriors.shape == (6, 32, 32, 32)
    torch.testing.assert_close(posteriors.sum(0), torch.ones(32, 32, 32), atol=1e-4, rtol=0)


def test_nothing_is_pickled(inputs, tmp_path):
    folder = learn(**inputs(checkpoint_dir=tmp_path / "checkpoints"))
    files = [p for root in (folder, tmp_path / "checkpoints") for p in root.rglob("*")]
    assert {p.suffix for p in files if p.is_file()} == {
        ".safetensors", ".json", ".tsv", ".md", ".npz"
    }  # fmt: skip
    for path in files:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert {arrays[key].dtype for key in arrays} == {np.dtype(np.uint8)}
        elif path.suffix == ".safetensors":
            assert load_file(path)
        elif path.is_file():
            path.read_text(encoding="utf-8")


def test_samples_are_of_one_size(inputs):
    folder = learn(**inputs())
    shape = tuple(json.loads((folder / "config.json").read_text())["grid_shape"])
    for kind, count in (("learned", 4), ("wide", 4), ("real", 3)):
        with np.load(folder / "samples" / f"{kind}.npz") as arrays:
            assert arrays["images"].shape == arrays["labels"].shape == (count, *shape)
            assert 0 < arrays["labels"].max() <= 5
            assert 50 < arrays["images"].max() <= 200


def test_same_inputs_same_model(inputs, config, tmp_path):
    one = learn(**inputs(threads=1))
    torch.manual_seed(5)
    two = learn(**inputs(out_dir=tmp_path / "two", threads=1))
    assert one.name == two.name
    for name in ("weights.safetensors", "labels.tsv", "theta.json", "samples/learned.npz"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    other = learn(**inputs(config=config(training__seed=1)))
    assert other.name != one.name


def test_a_model_of_the_same_name_is_replaced(inputs):
    folder = learn(**inputs())
    (folder / "weights.safetensors").write_bytes(b"damaged")
    (folder / "leftover").touch()
    assert learn(**inputs()) == folder
    assert Model.load(folder)
    assert not (folder / "leftover").exists()


def test_an_interrupted_training_goes_on(inputs, tmp_path, monkeypatch):
    whole = learn(**inputs())
    checkpoints = tmp_path / "checkpoints"
    told = []

    def stop(self, row):
        told.append(row["step"])
        if told == [1, 2, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "training", stop)
    again = inputs(out_dir=tmp_path / "again", checkpoint_dir=checkpoints)
    with pytest.raises(KeyboardInterrupt):
        learn(**again)
    assert not (tmp_path / "again").exists()
    assert {p.name for p in checkpoints.iterdir()} == {"training.safetensors", "learn.json"}
    folder = learn(**again)
    assert told == [1, 2, 3, 3, 4]
    assert folder.name == whole.name
    for name in ("weights.safetensors", "theta.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_threads_are_put_back(inputs):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        folder = learn(**inputs(threads=1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert json.loads((folder / "config.json").read_text())["threads"] == 1


def test_progress_is_logged(inputs, caplog):
    with caplog.at_level("INFO"):
        learn(**inputs(progress=True))
    lines = [r.getMessage() for r in caplog.records if "best validation Dice" in r.getMessage()]
    assert lines[-1].startswith(f"step {STEPS} of {STEPS}, loss ")
    assert "theta bias 0." in lines[-1]
    assert "about 0 min left" in lines[-1]


# ---------------------------------------------------------------- errors


def error_of(given, kind=L2SError):
    with pytest.raises(kind) as error:
        learn(**given)
    message = str(error.value)
    assert "\n" not in message
    # Nothing is left behind.
    assert not given["out_dir"].exists()
    return message


@pytest.fixture
def relabelled(tmp_path):
    """Copy of a volume with one voxel changed, or moved in space."""

    def relabelled(path, value=None, shift=0.0):
        image = nb.load(path)
        data, affine = np.asanyarray(image.dataobj).astype(np.int16), image.affine.copy()
        if value is not None:
            data[16, 16, 16] = value
        affine[0, 3] += shift
        nb.Nifti1Image(data, affine).to_filename(tmp_path / path.name)
        return tmp_path / path.name

    return relabelled


@pytest.mark.parametrize("value", [77, -1, 300])
@pytest.mark.parametrize("which", ["labels", "label_maps"])
def test_an_unknown_label_is_named(inputs, relabelled, which, value):
    given = inputs()
    given[which][1] = relabelled(given[which][1], value)
    message = error_of(given, LabelError)
    assert message.startswith(f"{given[which][1]}: label(s) {value} not in the label table; ")


def test_labels_on_another_grid_are_named(inputs, relabelled):
    given = inputs()
    given["labels"][3] = relabelled(given["labels"][3], shift=1.0)
    message = error_of(given, GridMismatchError)
    assert str(given["labels"][3]) in message
    assert str(given["images"][3]) in message


def test_bad_files_are_listed_together(inputs, relabelled, tmp_path):
    given = inputs()
    given["images"][0] = tmp_path / "gone_T1w.nii.gz"
    given["labels"][1] = relabelled(given["labels"][1], 77)
    given["label_maps"][0] = relabelled(given["label_maps"][0], 999)
    message = error_of(given, DatasetError)
    assert message.startswith("3 files cannot be used: ")
    for path in (given["images"][0], given["labels"][1], given["label_maps"][0]):
        assert str(path) in message


@pytest.mark.parametrize("role", ["learn", "validate"])
def test_both_roles_are_needed(inputs, role):
    assert "participants.tsv" in error_of(inputs(roles=[role] * 4), DatasetError)


def test_a_participant_has_one_role(inputs):
    message = error_of(inputs(roles=["learn", "validate", "learn", "validate"]), ConfigError)
    assert message == (
        "sub-01 is to be learned from and validated on; give each participant one role"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"roles": ["learn", "learn", "judge", "validate"]},
        {"roles": ["learn", "validate"]},
        {"labels": []},
        {"participants": ["sub-01"]},
    ],
)
def test_lists_that_do_not_fit(inputs, change):
    (name,) = change
    assert name in error_of(inputs(**change), ConfigError)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"augmentation__name": "magic"}, "unknown augmentation 'magic'"),
        ({"augmentation__options": {"volume": 3}}, "no option 'volume'"),
    ],
)
def test_augmentations_that_are_none(inputs, config, change, said):
    assert said in error_of(inputs(config=config(**change)), ConfigError)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"training": {"stepz": 3}}}, "unknown setting 'stepz'"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not there"),
        ({"threads": 0}, "0 threads are not enough"),
    ],
)
def test_settings_that_cannot_be_honoured(inputs, change, said):
    assert said in error_of(inputs(**change), ConfigError)


def test_a_missing_table_is_named(inputs, tmp_path):
    message = error_of(inputs(real_table=tmp_path / "dseg.tsv"), LabelError)
    assert message.startswith(f"{tmp_path / 'dseg.tsv'}: cannot read the label table")
