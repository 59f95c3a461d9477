"""The exported network, run by onnxruntime as its description says, is the model."""

import hashlib
import io
import json
import logging
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nibabel as nb
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import l2s_pydra
from l2s_pydra.config import preset
from l2s_pydra.errors import ConfigError, ModelError
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.segmentation import Model, Segmenter
from l2s_pydra.steps import export

KINDS = {
    "volumes": {"ndim": 3, "segmenter__depth": 2},
    "slices": {"ndim": 2, "segmenter__depth": 2, "segmenter__subvoxel": 2},
}
SHAPE = (30, 28, 26)


@pytest.fixture(scope="module", params=list(KINDS))
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    settings = dict(KINDS[request.param])
    learn = preset("quick", ndim=settings.pop("ndim")).evolve(
        spacing_mm=1.5, segmenter__width=4, training__precision="fp32", **settings
    )
    names = ("Left-Thalamus", "Right-Thalamus", "Brain-Stem")
    scheme = LabelScheme([Label(index=10 + i, name=name) for i, name in enumerate(names)])
    segmenter = Segmenter(learn.segmenter, len(scheme))
    with torch.no_grad():
        segmenter.unet.final.weight.mul_(4)
    record = {"learn": learn.to_dict(), "segmentation": "thalami", "name": "learn2synth12345678"}
    path = tmp_path_factory.mktemp("model")
    Model(segmenter=segmenter, scheme=scheme, config=record).save(path)
    return path


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """Export as the command line does, which names the files and says nothing else."""
    logging.getLogger("torch.onnx").setLevel(logging.WARNING)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert export.main([str(folder), str(tmp_path_factory.mktemp("out") / "new")]) == 0
    assert not err.getvalue()
    assert logging.getLogger("torch.onnx").level == logging.WARNING
    network, description = map(Path, out.getvalue().splitlines())
    return network, description


@pytest.fixture(scope="module")
def said(exported):
    return json.loads(exported[1].read_text())


@pytest.fixture(scope="module")
def run(exported):
    session = onnxruntime.InferenceSession(exported[0], providers=["CPUExecutionProvider"])
    return lambda x: session.run(["posteriors"], {"image": x.astype(np.float32)})[0]


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(8, 8, 8), (16, 8, 24), (12, 20, 4)])
@pytest.mark.parametrize("batch", [1, 3])
def test_posteriors_are_those_of_pytorch(folder, run, said, sides, batch):
    segmenter = Model.load(folder).segmenter
    x = torch.rand(batch, 1, *sides[: segmenter.config.ndim])
    with torch.no_grad():
        expected = segmenter(x).softmax(1).numpy()
    # Sums in another order, in full precision.
    np.testing.assert_allclose(run(x.numpy()), expected, atol=2e-5)


def drawn_out(data, spacing, said):
    """Repeat the outermost slices of a slab as the description says; return the slab's place, too."""
    low, high = np.percentile(data, 0.5), np.percentile(data[data > data.mean()], 99)
    shown = data > low + said["shown"] * (high - low)
    areas = [shown.sum(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    full = [np.flatnonzero(area >= said["full"] * area.max()) for area in areas]
    sides = [(f[-1] - f[0] + 1) * spacing for f in full]
    axis, longest = int(np.argmin(sides)), max(sides)
    none = (slice(None),) * 3
    if sides[axis] > min(said["thickness_mm"], said["thickness_share"] * longest):
        return data, none, none
    count = int(np.ceil(min(said["distance_mm"], said["distance_share"] * longest) / spacing))
    area, first, last = areas[axis], full[axis][0], full[axis][-1]
    assert first == 0 or area[first - 1] <= said["empty"] * area.max()
    assert last == len(area) - 1 or area[last + 1] <= said["empty"] * area.max()
    # Slices at the faces that are dimmer than the others
    slices = np.moveaxis(np.where(shown, data - low, np.nan), axis, 0)[first : last + 1]
    means = [np.nanmean(plane) for plane in slices]
    most, fading = max(1, int(said["fading_mm"] / spacing)), []
    for inwards in (means, means[::-1]):
        n = 0
        while n < len(means) and (
            inwards[n] < said["dim"] * np.median(means)
            or (
                spacing <= said["near_mm"]
                and n + 1 < len(means)
                and inwards[n] < said["dim_beside"] * inwards[n + 1]
            )
        ):
            n += 1
        fading.append(n if n <= most else 0)
    before, after = fading
    bright, place, inner = ([slice(None)] * 3 for _ in range(3))
    place[axis] = slice(first, last + 1)
    bright[axis] = slice(first + before, last + 1 - after)
    inner[axis] = slice(count, count + last + 1 - first)
    width = [(0, 0)] * 3
    width[axis] = (count + before, count + after)
    return np.pad(data[tuple(bright)], width, mode="edge"), tuple(inner), tuple(place)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["whole", "slab", "fading"])
def test_the_description_is_enough(folder, run, said, part):
    """From an image to labels with NumPy, by the description alone."""
    rng = np.random.default_rng(0)
    original = np.zeros(SHAPE, np.float32)
    original[7:20, 6:20, 2:-2] = rng.gamma(4, 25, (13, 14, 22))
    if part != "whole":
        original[:, :, :9] = original[:, :, 16:] = 0
    if part == "fading":
        original[:, :, [9, 15]] *= 0.4
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    steps = {step["step"]: step for step in said["preprocessing"]}
    assert steps["resample"]["orientation"] == "RAS"
    assert steps["resample"]["spacing_mm"] == 1.5
    after = {step["step"]: step for step in said["postprocessing"]}
    repeats = "repeat" in steps
    assert repeats == (len(said["input"]["axes"]) == 5)
    data, inner, place = original, (slice(None),) * 3, (slice(None),) * 3
    if repeats:
        data, inner, place = drawn_out(original, 1.5, steps["repeat"])
    assert (data is original) == (part == "whole" or not repeats)
    normalise, crop = steps["normalise"], steps["crop"]

    def normalised(x):
        low, bright = np.sort(x, axis=None), np.sort(x[x > x.mean()], axis=None)
        low = low[int(normalise["low_percentile"] / 100 * (low.size - 1))]
        high = bright[int(normalise["high_percentile"] / 100 * (bright.size - 1))]
        return np.clip((x - low) / (high - low), *normalise["clip"])

    x = normalised(data - data.min())
    where = np.argwhere(x > crop["threshold"])
    start = np.maximum(where.min(0) - crop["margin"], 0)
    stop = np.minimum(where.max(0) + 1 + crop["margin"], data.shape)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))

    def padded(x):
        return np.pad(x, [(0, -n % steps["pad"]["multiple"]) for n in x.shape])

    def posteriors(x):
        inner = tuple(slice(0, n) for n in x.shape)
        if "slices" not in steps:
            return run(padded(x)[None, None])[0][(slice(None), *inner)]
        most, found = steps["slices"]["greatest_gain"], []
        for one in np.moveaxis(x, -1, 0):
            alone = normalised(one) if one.max() > one.min() else one
            alone = alone if alone.max() <= most * max(one.max(), 1e-6) else most * one
            found.append(run(padded(alone)[None, None])[0][(slice(None), *inner[:2])])
        return np.stack(found, -1)

    mirror = after["mirror"]
    assert mirror["axis"] == said["input"]["axes"][2] == "right"
    both = [posteriors(x[box]), posteriors(x[box][::-1])[mirror["opposite"], ::-1]]
    grown = np.zeros((len(said["output"]["labels"]), *data.shape))
    grown[0] = 1
    grown[(slice(None), *box)] = np.mean(both, 0)
    whole = np.zeros((len(grown), *SHAPE))
    whole[0] = 1
    whole[(slice(None), *place)] = grown[(slice(None), *inner)]
    labels = np.array([label["index"] for label in said["output"]["labels"]])[whole.argmax(0)]

    image = nb.Nifti1Image(original, affine)
    expected = l2s_pydra.load_model(folder).segment(image, threads=1, posteriors=True)
    np.testing.assert_allclose(
        whole, np.moveaxis(expected.posteriors.get_fdata(), -1, 0), atol=2e-4
    )
    assert float((labels == np.asarray(expected.labels.dataobj)).mean()) > 0.999
    assert len(np.unique(labels)) > 2


@pytest.mark.slow
def test_files_say_what_they_are(folder, exported, said):
    network, description = exported
    assert network.name == said["network"]["file"] == "learn2synth12345678.onnx"
    assert said["network"]["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    weights = (folder / "weights.safetensors").read_bytes()
    assert said["model"]["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert [label["name"] for label in said["output"]["labels"]][:2] == [
        "background",
        "Left-Thalamus",
    ]
    assert sorted(path.name for path in network.parent.iterdir()) == sorted(
        [network.name, description.name]
    )
    model = onnx.load(network)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == said["network"]["opset"]
    content = network.read_bytes()
    for place in (Path(l2s_pydra.__file__).parent, Path(torch.__file__).parent, Path.cwd()):
        assert str(place).encode() not in content


def test_what_is_not_installed_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(ConfigError, match=r"no_such_package not installed.*l2s_pydra\[onnx\]"):
        export.export_onnx(folder, tmp_path)


def test_no_model_is_said(tmp_path, capsys):
    assert export.main([str(tmp_path), str(tmp_path / "out")]) == 64
    assert "weights.safetensors: missing" in capsys.readouterr().err
    with pytest.raises(ModelError):
        export.export_onnx(tmp_path, tmp_path)


def test_nowhere_to_write_is_said(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        export.export_onnx(folder, tmp_path / "file")
