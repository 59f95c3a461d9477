"""The application learns from label maps alone, and goes on from a model."""

import json
import subprocess
import sys

import pytest

from l2s_pydra.workflows.cli import main

TINY = ("--steps", "2", "--set", "segmenter.width=2", "--set", "training.validate_every=2")


@pytest.fixture(scope="module")
def learn(phantom, environment, tmp_path_factory):
    """Learn from the label maps of the phantom data set; return the process and the output."""

    def learn(*more):
        output = tmp_path_factory.mktemp("maps_only") / "out"
        arguments = [
            *(str(phantom), str(output), "learn", "--mode", "synthseg", "--device", "cpu"),
            *("--label-maps", str(phantom / "derivatives" / "labelmaps")),
            *("--work-dir", str(output.parent / "work"), "--nprocs", "1", *TINY, *more),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "l2s_pydra.workflows.cli", *arguments],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done, output

    return learn


@pytest.fixture(scope="module")
def first(learn):
    """The folder of a model that saw no image."""
    done, output = learn("--spacing-mm", "8")
    assert done.returncode == 0, done.stderr
    (folder,) = output.glob("models/model-synthseg*")
    return folder


def record(folder):
    return json.loads((folder / "config.json").read_text())


def test_a_model_without_images(first):
    found = record(first)
    assert found["segmentation"] == "head"
    assert found["label_maps"] == [f"sub-map0{i}_desc-head_dseg.nii.gz" for i in (1, 2)]
    assert found["validation_maps"] == ["sub-map03_desc-head_dseg.nii.gz"]
    assert (first / "report.html").is_file()


def test_going_on_from_it_at_another_voxel_size(first, learn):
    done, output = learn(
        *("--spacing-mm", "6", "--start-from", str(first)),
        *("--validation-participants", "map01", "--segmentation", "other"),
    )
    assert done.returncode == 0, done.stderr
    (folder,) = output.glob("models/model-*")
    found = record(folder)
    start = {"name": first.name.removeprefix("model-"), "spacing_mm": 8.0}
    assert {key: found["start_from"][key] for key in start} == start
    assert found["validation_maps"] == ["sub-map01_desc-head_dseg.nii.gz"]
    (run,) = output.glob("logs/*/l2s_pydra.toml")
    assert f'start_from = "{first.name}"' in run.read_text()
    assert str(first.parent) not in run.read_text()


def test_a_model_that_is_not_there(phantom, tmp_path, capsys):
    maps = str(phantom / "derivatives" / "labelmaps")
    arguments = [str(phantom), str(tmp_path / "out"), "learn", "--skip-bids-validation"]
    options = ["--mode", "synthseg", "--label-maps", maps, "-w", str(tmp_path / "work")]
    assert main([*arguments, *options, "--start-from", "nobody"]) == 65
    assert "--start-from nobody: no such folder" in capsys.readouterr().err
