import json

import numpy as np
import pytest

from l2s_pydra.config import preset
from l2s_pydra.errors import ModelError
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.steps.report_model import report_model

SCHEME = LabelScheme([Label(index=4, name="stem"), Label(index=9, name="thalamus")])
COLUMNS = (
    "step",
    "seconds",
    "learning_rate",
    "synthetic_loss",
    "real_loss",
    "gradient_norm",
    "theta_gradient_norm",
    "validation_dice",
)


def write_model(folder, mode="learn2synth", ndim=3):
    """Model folder such as the learn step writes; the weights are of no importance here."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    config = preset("quick", ndim=ndim).evolve(training__mode=mode)
    record = {
        "name": "m1",
        "version": "0.1.0",
        "learn": config.to_dict(),
        "best_dice": 0.7,
        "best_step": 20,
        "validation_dice": {"stem": 0.8, "thalamus": None},
        "seconds": 5.0,
        "parameters": 12345,
        "skull_stripped": True,
        "label_maps": ["map1.nii.gz"],
        "device": "cpu",
        "torch": "2.4",
    }
    (folder / "config.json").write_text(json.dumps(record))
    SCHEME.write(folder / "labels.tsv")
    names = [*COLUMNS, "theta/mean/stem", "theta/bias"]
    rows = [[str(s), *(f"{v:.3f}" for v in rng.uniform(0.1, 1, 9))] for s in range(1, 21)]
    (folder / "training.tsv").write_text("\n".join("\t".join(r) for r in [names, *rows]) + "\n")
    (folder / "splits.tsv").write_text(
        "participant_id\trole\timage\nsub-01\tlearn\ta\nsub-02\tvalidate\tb\nsub-01\tlearn\tc\n"
    )
    values = {"mean/stem": 0.5, "bias": None}
    theta = {"start": values, "average": values, "final": values, "hypergradient_steps": 3}
    (folder / "theta.json").write_text(json.dumps(theta))
    (folder / "samples").mkdir()
    shape = (4, *(12, 14, 10)[:ndim])
    for kind in ("learned", "wide", "real"):
        np.savez(
            folder / "samples" / f"{kind}.npz",
            images=rng.integers(0, 255, shape, dtype=np.uint8),
            labels=rng.integers(0, 3, shape, dtype=np.uint8),
        )
    return folder


@pytest.mark.parametrize(
    ("mode", "ndim"), [("learn2synth", 2), ("learn2synth", 3), ("synthseg", 3), ("supervised", 2)]
)
def test_model_report_of_every_mode(tmp_path, mode, ndim):
    figures = {"training.png", "samples.png"}
    if mode == "learn2synth":
        figures |= {"theta.png", "theta_values.png"}
    folder = write_model(tmp_path / "model-m1", mode, ndim)
    text = report_model(folder, folder / "report.html").read_text()
    assert {path.name for path in (folder / "figures").iterdir()} == figures
    for name in figures:
        assert f'src="figures/{name}"' in text
    assert ("Hypergradient" in text) == (mode == "learn2synth")
    assert "Learned from (1)" in text
    assert "12\u202f345" in text


def test_model_report_may_lie_elsewhere(tmp_path):
    folder = write_model(tmp_path / "model-m1")
    text = report_model(folder, tmp_path / "pages" / "m1.html").read_text()
    assert 'href="../model-m1/config.json"' in text
    assert (tmp_path / "pages" / "figures" / "training.png").is_file()


def test_model_report_of_a_bare_folder(tmp_path):
    folder = write_model(tmp_path / "model-m1")
    for name in ("training.tsv", "splits.tsv", "theta.json"):
        (folder / name).unlink()
    for path in (folder / "samples").iterdir():
        path.unlink()
    text = report_model(folder, folder / "report.html").read_text()
    assert "<img" not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"learn": 3}'),
        ("weights.safetensors", None),
        ("labels.tsv", "index\n"),
        ("training.tsv", "step\n"),
        ("theta.json", "["),
        ("splits.tsv", "a\tb\n"),
        ("samples/real.npz", "nothing"),
    ],
)
def test_broken_model_folder_is_named(tmp_path, name, content):
    folder = write_model(tmp_path / "model-m1")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ModelError, match=r"model-m1.*(copy the|learn the model)"):
        report_model(folder, folder / "report.html")


def test_intensities_of_the_groups_are_shown(tmp_path):
    folder = write_model(tmp_path / "model-m1")
    (folder / "priors.tsv").write_text(
        "group\tn_images\tmean\tmean_std\tstd\nstem\t3\t0.5\t0.02\t0.1\n"
    )
    text = report_model(folder, folder / "report.html").read_text()
    assert 'src="figures/priors.png"' in text
    assert 'href="#priors"' in text
    assert (folder / "figures" / "priors.png").is_file()
