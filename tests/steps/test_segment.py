"""The whole way from a file to a staged derivative, with a model that labels by intensity."""

import json

import attrs
import nibabel as nb
import numpy as np
import pytest
import torch
from nibabel.eulerangles import euler2mat

from l2s_pydra.errors import ConfigError, ImageError, ModelError
from l2s_pydra.images.conform import Conform
from l2s_pydra.images.volume import Volume
from l2s_pydra.labels import LabelScheme
from l2s_pydra.reports.colors import hex_color, label_colors
from l2s_pydra.segmentation import Model, Posterior
from l2s_pydra.steps import segment as module
from l2s_pydra.steps import staged
from l2s_pydra.steps.posterior import Prediction

GREY, WHITE = 3, 41
ENTITIES = {"subject": "01", "session": "a", "run": "2", "suffix": "T1w"}
STEM = "sub-01/ses-a/anat/sub-01_ses-a_run-2"
LIA = np.array([[-1.0, 0, 0, 12], [0, 0, 1, -9], [0, -1, 0, 30], [0, 0, 0, 1]])


def oblique():
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(0.2, -0.1, 0.3) @ np.diag([0.8, 0.9, 1.1])
    affine[:3, 3] = -10, 5, 20
    return affine


@pytest.fixture
def run(model, segmented):
    def run(image, folder=None, **options):
        source = "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz"
        given = {"entities": ENTITIES, "source": source, **options}
        return segmented(image, folder or model, **given)

    return run


def dice(one, two):
    return 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))


@pytest.mark.parametrize("affine", [LIA, oblique()], ids=["LIA", "oblique"])
def test_labels_lie_where_the_image_has_them(phantom, run, affine):
    path, truth = phantom(affine)
    result = run(path)
    dseg = nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz")
    found = np.asanyarray(dseg.dataobj)
    if affine is LIA:
        # The working grid is the image's own, but for the order of its axes
        np.testing.assert_array_equal(found, truth)
    for label in (GREY, WHITE):
        assert dice(found == label, truth == label) > 0.93
    assert set(np.unique(found)) == {0, GREY, WHITE}
    assert dseg.get_data_dtype() == np.uint8
    source = nb.load(path)
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b"):
        np.testing.assert_array_equal(dseg.header[field], source.header[field])
    np.testing.assert_array_equal(dseg.affine, source.affine)
    assert dseg.header["descrip"].item() == b""


def test_coarse_working_grid(phantom, make_model, run):
    path, truth = phantom(LIA)
    result = run(path, make_model("coarse", spacing_mm=3.0))
    found = np.asanyarray(nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz").dataobj)
    assert found.shape == truth.shape
    # A ball of 11 mm in voxels of 3 mm, cut at 0.3 where its blurred edge is at 0.25
    assert dice(found > 0, truth > 0) > 0.9


def test_tree_and_result(phantom, run, tmp_path):
    result = run(phantom(LIA)[0])
    names = [
        "sub-01/figures/sub-01_ses-a_run-2_seg-tissue_desc-T1w_dseg.png",
        f"{STEM}_label-brain_desc-T1w_mask.json",
        f"{STEM}_label-brain_desc-T1w_mask.nii.gz",
        f"{STEM}_seg-tissue_desc-T1w_dseg.json",
        f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz",
        f"{STEM}_seg-tissue_desc-T1w_dseg.tsv",
        f"{STEM}_seg-tissue_desc-T1w_morph.json",
        f"{STEM}_seg-tissue_desc-T1w_morph.tsv",
    ]
    assert sorted(path.relative_to(result.tree).as_posix() for path in result.files) == names
    found = sorted(p.relative_to(result.tree).as_posix() for p in result.tree.rglob("*.*"))
    assert found == sorted([*names, "summary.json"])
    assert result.tree == tmp_path / "tree"
    assert result.summary == result.tree / "summary.json"


def test_mask_and_volumes(phantom, run):
    affine = oblique()
    path, _ = phantom(affine)
    result = run(path)
    dseg = np.asanyarray(nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz").dataobj)
    mask = nb.load(result.tree / f"{STEM}_label-brain_desc-T1w_mask.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), dseg > 0)
    assert mask.get_data_dtype() == np.uint8
    table = (result.tree / f"{STEM}_seg-tissue_desc-T1w_morph.tsv").read_text().splitlines()
    header = ("index", "name", "volume-mm3", "soft-volume-mm3", "self-dice", "predicted-dice")
    assert tuple(table[0].split("\t")) == header
    *rows, inside = (line.split("\t") for line in table[1:])
    assert inside[:3] == ["n/a", "intracranial", "n/a"]
    assert [row[:2] for row in rows] == [[str(GREY), "grey"], [str(WHITE), "white"]]
    for row, label in zip(rows, (GREY, WHITE), strict=True):
        expected = np.count_nonzero(dseg == label) * 0.8 * 0.9 * 1.1
        assert float(row[2]) == pytest.approx(expected, abs=1e-3)
    ball = 4 / 3 * np.pi * 6**3
    assert float(rows[1][2]) == pytest.approx(ball, rel=0.1)
    soft = json.loads(result.summary.read_text())["volumes"][1]["soft_volume_mm3"]
    assert soft == pytest.approx(ball, rel=0.1)
    assert float(rows[1][3]) == soft
    assert 0.9 < float(rows[1][4]) <= 1
    assert rows[1][5] == "n/a"


def test_no_mask(phantom, run):
    result = run(phantom(LIA)[0], save_mask=False)
    assert not [path for path in result.files if "mask" in path.name]


def test_label_table_has_what_bids_knows_and_the_figures_colours(phantom, run, model):
    result = run(phantom(LIA)[0])
    table = result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.tsv"
    assert table.read_text().splitlines()[0] == "index\tname\tcolor"
    scheme = LabelScheme.read(table)
    assert scheme.indices == (0, GREY, WHITE)
    expected = label_colors(LabelScheme.read(model / "labels.tsv"))
    assert [label.color for label in scheme.labels] == [hex_color(c) for c in expected]


def test_sidecars(phantom, run, model):
    result = run(phantom(LIA)[0], probseg=True)
    image = "bids:raw:sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz"

    def read(name):
        return json.loads((result.tree / f"{STEM}_{name}").read_text())

    dseg = read("seg-tissue_desc-T1w_dseg.json")
    weights = "bids:models:model-learn2synth1234abcd/weights.safetensors"
    assert dseg["Sources"] == [image, weights]
    assert dseg["SpatialReference"] == image
    assert dseg["ModelSHA256"] == Model.load(model).sha256
    assert read("label-brain_desc-T1w_mask.json")["Type"] == "Brain"
    assert read("seg-tissue_desc-T1w_probseg.json")["LabelMap"] == ["background", "grey", "white"]
    morph = read("seg-tissue_desc-T1w_morph.json")
    assert morph["Sources"] == [f"bids::{STEM}_seg-tissue_desc-T1w_dseg.nii.gz"]


def test_probabilities(phantom, run):
    path, truth = phantom(oblique())
    result = run(path, probseg=True)
    probseg = nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_probseg.nii.gz")
    dseg = np.asanyarray(nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz").dataobj)
    values = probseg.get_fdata()
    assert values.shape == (*truth.shape, 3)
    np.testing.assert_allclose(values.sum(axis=-1), 1, atol=1e-4)
    clear = np.sort(values, axis=-1)[..., -1] > 0.51
    labels = np.array([0, GREY, WHITE])[values.argmax(axis=-1)]
    np.testing.assert_array_equal(labels[clear], dseg[clear])


def test_summary(phantom, run, model):
    path, truth = phantom(LIA)
    result = run(path)
    summary = json.loads(result.summary.read_text())
    assert summary["image"] == "sub-01_ses-a_run-2_T1w"
    assert summary["source"] == "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz"
    assert summary["entities"] == ENTITIES
    assert summary["shape"] == list(truth.shape)
    assert summary["spacing_mm"] == [1, 1, 1]
    assert summary["warnings"] == []
    assert summary["model"]["name"] == "learn2synth1234abcd"
    assert summary["model"]["sha256"] == Model.load(model).sha256
    assert [row["name"] for row in summary["volumes"]] == ["grey", "white"]
    assert summary["volumes"][0]["volume_mm3"] == np.count_nonzero(truth == GREY)
    assert summary["seconds"] > 0
    links = [link["href"] for link in summary["files"]]
    assert all((result.tree / link).is_file() for link in [summary["dseg"], *links])
    assert (result.tree / summary["figure"]).read_bytes().startswith(b"\x89PNG")
    assert str(path.parent) not in result.summary.read_text()


def test_predicts_once_and_loads_once(phantom, run, monkeypatch):
    calls = []

    def counting(name, function):
        def counted(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(Model, "predict", counting("predict", Model.predict))
    monkeypatch.setattr(module, "load_image", counting("load", module.load_image))
    monkeypatch.setattr(staged, "save_labels", counting("save", staged.save_labels))
    run(phantom(LIA)[0], probseg=True)
    assert sorted(calls) == ["load", "predict", "save", "save"]


def test_same_input_same_bytes(phantom, run, tmp_path):
    path, _ = phantom(LIA)
    first = run(path, out_dir=tmp_path / "first", probseg=True)
    second = run(path, out_dir=tmp_path / "second", probseg=True)
    for one, two in zip(first.files, second.files, strict=True):
        assert one.relative_to(first.tree) == two.relative_to(second.tree)
        assert one.read_bytes() == two.read_bytes()


def warnings(result):
    summary = json.loads(result.summary.read_text())
    flags = [flag["text"] for flag in summary["flags"]]
    return " | ".join([*summary["warnings"], *summary["header_warnings"], *flags])


def modified(path, change):
    image = nb.load(path)
    nb.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine).to_filename(path)
    return path


def test_warns_of_what_a_person_should_look_at(phantom, run, tmp_path):
    path, truth = phantom(LIA)

    def with_nan(data):
        data[0, 0, 0] = np.nan
        return data

    assert "not finite" in warnings(run(modified(path, with_nan)))
    # Bright voxels, too small for structures: two grey levels leave no white
    assert "not found: grey" in warnings(run(modified(path, lambda d: 100.0 * (truth == WHITE))))
    path, truth = phantom(LIA)
    cut = warnings(run(modified(path, lambda d: np.roll(d, 10, axis=0))))
    assert "grey, white: the field of view ends at x = -20 mm (left)" in cut


def test_what_is_odd_about_a_file_is_logged_once(phantom, run, caplog):
    path, _ = phantom(LIA)
    image = nb.load(path)
    image.header["xyzt_units"] = 1
    image.to_filename(path)
    assert "lengths in metres" in warnings(run(path))
    said = [record.getMessage() for record in caplog.records]
    assert [str(path) in text for text in said if "lengths in metres" in text] == [True]


def test_a_warning_says_whose_image_a_file_of_a_cache_is(phantom, run, caplog):
    path, truth = phantom(LIA)
    run(modified(path, lambda d: 100.0 * (truth == WHITE)))
    (said,) = [r.getMessage() for r in caplog.records if "not found: grey" in r.getMessage()]
    assert said.startswith(f"sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz ({path.parent}")


def test_warns_of_a_head_where_the_model_knows_brains(make_model):
    loaded = Model.load(make_model())
    working = np.zeros((20, 20, 20), dtype=np.float32)
    working[2:18, 2:18, 2:18] = 1
    brain = np.zeros((3, 20, 20, 20), dtype=np.float32)
    brain[0] = 1
    brain[:, 6:14, 6:14, 6:14] = np.array([0, 0.5, 0.5])[:, None, None, None]
    channels = np.zeros((20, 20, 20), dtype=np.int16)
    channels[6:14, 6:14, 6:14] = np.arange(8) % 3
    volume = Volume(data=working, affine=np.eye(4), header=None, path="a")
    conform = Conform.to_grid(volume, 1.0)
    posterior = Posterior(values=torch.from_numpy(brain), start=(0, 0, 0), shape=(20, 20, 20))
    found = Prediction(working=working, posterior=posterior, conform=conform)
    assert any("skull" in doubt for doubt in module._doubts(loaded, found, channels))
    working[brain[0] == 1] = 0
    assert module._doubts(loaded, found, channels) == []


def test_nothing_found_is_a_warning(phantom, make_model, run):
    result = run(phantom(LIA)[0], make_model("blind", weight=0.0))
    assert "no structure was found" in warnings(result)
    dseg = nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz")
    assert not np.asanyarray(dseg.dataobj).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices_with_a_2d_model(phantom, make_model, run, axis):
    path, truth = phantom(np.diag([-1.0, 1, 1, 1]))
    middle = [slice(None)] * 3
    middle[axis] = slice(15, 16)
    modified(path, lambda data: data[tuple(middle)])
    result = run(path, make_model("flat", ndim=2))
    dseg = nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(dseg.dataobj), truth[tuple(middle)])
    with pytest.raises(ImageError, match="2-D model"):
        run(path)


def test_volumes_with_a_2d_model(phantom, make_model, run):
    path, truth = phantom(LIA)
    result = run(path, make_model("flat", ndim=2))
    dseg = nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz")
    # Each axial slice is normalised alone: grey is grey only where there is white to compare with.
    both = (truth == WHITE).any((0, 2))
    np.testing.assert_array_equal(np.asanyarray(dseg.dataobj)[:, both], truth[:, both])


def test_freesurfer_image(phantom, run, tmp_path):
    path, truth = phantom(LIA)
    source = nb.load(path)
    nb.MGHImage(source.get_fdata(dtype=np.float32), source.affine).to_filename(tmp_path / "a.mgz")
    result = run(tmp_path / "a.mgz")
    dseg = nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(dseg.dataobj), truth)
    np.testing.assert_allclose(dseg.affine, source.affine, atol=1e-5)


def test_bad_images_are_named(phantom, run, tmp_path):
    path, _ = phantom(LIA)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match="truncated") as error:
        run(path)
    assert str(path) in str(error.value)
    assert not (tmp_path / "tree").exists()


def test_bad_models_are_named(phantom, make_model, run):
    path, _ = phantom(LIA)
    with pytest.raises(ModelError, match="not numbers"):
        run(path, make_model("nan", weight=float("nan")))
    folder = make_model("cut")
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        run(path, folder)
    folder = make_model("nameless")
    config = json.loads((folder / "config.json").read_text())
    del config["segmentation"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json.*'segmentation'"):
        run(path, folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"device": "abacus"}, "unknown device"), ({"threads": 0}, "at least 1")],
)
def test_bad_options(phantom, run, options, words):
    with pytest.raises(ConfigError, match=words):
        run(phantom(LIA)[0], **options)


def test_gpu_that_is_not_there(phantom, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="'cpu'"):
        run(phantom(LIA)[0], device="cuda")


def test_what_went_otherwise_is_told(phantom, run, monkeypatch):
    predict = Model.predict

    def elsewhere(self, image, *, device, **options):
        found = predict(self, image, device="cpu", **options)
        return attrs.evolve(found, warnings=("segmented on the CPU",))

    monkeypatch.setattr(Model, "predict", elsewhere)
    result = run(phantom(LIA)[0])
    assert "segmented on the CPU" in warnings(result)


def test_output_folder_that_cannot_be_written(phantom, run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written") as error:
        run(phantom(LIA)[0], out_dir=tmp_path / "file" / "tree")
    assert "\n" not in str(error.value)


def test_threads_are_given_back(phantom, run):
    before = torch.get_num_threads()
    run(phantom(LIA)[0], threads=before + 1)
    assert torch.get_num_threads() == before
