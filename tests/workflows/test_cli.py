"""The command line: what it understands, what it refuses, what it imports."""

import json
import os
import subprocess
import sys

import pytest

from l2s_pydra import __version__
from l2s_pydra.bids.provenance import run_record
from l2s_pydra.config import preset
from l2s_pydra.errors import ConfigError
from l2s_pydra.workflows import bids_app
from l2s_pydra.workflows.cli import UsageError, demo_arguments, main, parse

HEAVY = ("torch", "pydra", "nipype", "bids", "numpy", "nibabel", "matplotlib", "scipy")


@pytest.fixture
def arguments(phantom, tmp_path):
    """Arguments of a run at the level ``participant``, to be continued."""

    def arguments(*more, level="participant"):
        return [str(phantom), str(tmp_path / "out"), level, "-w", str(tmp_path / "work"), *more]

    return arguments


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_heavy(option):
    code = (
        "import sys; from l2s_pydra.workflows.cli import main; code = main(sys.argv[1:]);"
        f"assert not set(sys.modules) & set({HEAVY}), set(sys.modules) & set({HEAVY});"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, option], capture_output=True, text=True, check=True, timeout=30
    )
    assert ("usage: l2s-pydra" if option == "--help" else __version__) in done.stdout


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        ([], 64, "nothing to do"),
        (["/nowhere", "out", "participant"], 66, "/nowhere"),
        (["{empty}", "out", "participant"], 66, "dataset_description.json"),
        (["{data}", "{tmp}/out", "subject"], 17, "unknown level 'subject'"),
        (["{data}", "{data}", "participant"], 64, "derivatives"),
        (["{data}", "{tmp}/out", "participant", "-w", "{data}/work"], 64, "--work-dir"),
        (["{data}", "{tmp}/scratch/out", "participant", "-w", "{tmp}/scratch"], 64, "--work-dir"),
        (["{data}", "{tmp}/out", "learn"], 64, "--real-labels"),
        (["{data}", "{tmp}/out", "learn", "--mode", "synthseg"], 64, "--label-maps DIR"),
        (["{data}", "{tmp}/out", "learn", "--label-maps", "{data}"], 64, "--mode synthseg"),
        (
            [
                "{data}",
                "{tmp}/out",
                "learn",
                "--mode",
                "synthseg",
                "--label-maps",
                "{data}",
                "--test-participants",
                "01",
            ],
            64,
            "--test-participants",
        ),
        (
            [
                "{data}",
                "{tmp}/out",
                "learn",
                "--real-labels",
                "{data}",
                "--target-labels",
                "{data}/participants.tsv",
            ],
            64,
            "--target-labels",
        ),
        (
            [
                "{data}",
                "{tmp}/out",
                "learn",
                "--real-labels",
                "{data}",
                "--start-from",
                "m",
                "--compare",
                "synthseg",
                "supervised",
            ],
            64,
            "--compare and --start-from",
        ),
        (["{data}", "{tmp}/out", "learn", "--real-labels", "/nowhere"], 64, "no such folder"),
        (["{data}", "{tmp}/out", "participant", "--what"], 64, "--what"),
        (["{data}", "{tmp}/out", "participant", "--nprocs", "0"], 64, "'0'"),
        (["{data}", "{tmp}/out", "participant", "--device", "gpu"], 64, "cuda"),
        (["{data}", "{tmp}/out", "participant", "--res", "fine"], 64, "1.5mm"),
        (["{data}", "{tmp}/out", "participant", "--test-time-draws", "0"], 64, "'0'"),
        (["{data}", "{tmp}/out", "participant", "--steps", "0"], 64, "steps"),
        (["{data}", "{tmp}/out", "participant", "--set", "training.stops=3"], 64, "steps"),
        (["{data}", "{tmp}/out", "participant", "--set", "trainning.steps=3"], 64, "training"),
        (["{data}", "{tmp}/out", "participant", "--set", "training.steps"], 64, "SECTION.NAME"),
        (["{data}", "{tmp}/out", "participant", "--segmentation", "a-b"], 64, "'a-b'"),
        (["{data}", "{tmp}/out", "participant", "--config", "/nowhere.json"], 64, "nowhere.json"),
    ],
)
def test_wrong_usage_is_one_line_and_an_exit_code(wrong, code, said, phantom, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {"data": phantom, "tmp": tmp_path, "empty": tmp_path / "empty"}
    assert main([argument.format(**places) for argument in wrong]) == code
    message = capsys.readouterr().err
    assert said in message
    assert message.startswith("l2s-pydra: ")
    assert message.count("\n") == 1


def test_a_broken_configuration_names_the_file(arguments, tmp_path, capsys):
    (tmp_path / "c.json").write_text("{")
    assert main(arguments("--config", str(tmp_path / "c.json"))) == 64
    assert "c.json" in capsys.readouterr().err


def test_both_spellings_and_both_forms_of_labels(arguments):
    for option in ("--participant-label", "--participant_label"):
        options = parse(arguments(option, "sub-01", "02", "--session_label", "ses-a"))
        assert options.participants == ("01", "02")
        assert options.sessions == ("a",)


def test_settings_come_in_order(arguments, tmp_path):
    """A preset or a file, then the options, then --set."""
    file = tmp_path / "config.json"
    file.write_text(preset("quick").evolve(training__steps=7, training__seed=5).to_json())
    config = parse(arguments("--config", str(file), "--steps", "8")).config
    assert (config.training.steps, config.training.seed) == (8, 5)
    config = parse(arguments("--steps", "8", "--set", "training.steps=9")).config
    assert config == preset("default").evolve(training__steps=9)


def test_options_reach_the_settings(arguments):
    chosen = ("--mode", "synthseg", "--augmentation", "noise", "--ndim", "2", "--spacing-mm", "2.5")
    config = parse(arguments(*chosen, "--random-seed", "3", "--preset", "quick")).config
    assert config.training.mode == "synthseg"
    assert config.augmentation.name == "noise"
    assert config.segmenter.ndim == 2
    assert config.spacing_mm == 2.5
    assert config.training.seed == 3


def test_any_setting_can_be_set(arguments):
    values = {
        "spacing_mm": 1.5,
        "segmenter.activation": "gelu",
        "segmenter.coordinates": True,
        "synthesis.mean_range": [0.1, 0.9],
        "augmentation.options": {"sigma": 0.2},
    }
    more = [part for name, v in values.items() for part in ("--set", f"{name}={json.dumps(v)}")]
    config = parse(arguments(*more)).config
    assert config.spacing_mm == 1.5
    assert config.segmenter.activation == "gelu"
    assert config.segmenter.coordinates is True
    assert config.synthesis.mean_range == (0.1, 0.9)
    assert config.augmentation.options == {"sigma": 0.2}


def test_levels_run_in_their_order(arguments, phantom):
    labels = ("--real-labels", str(phantom / "derivatives" / "reference"))
    options = parse([*arguments(*labels)[:2], "group", "learn", "participant", *labels])
    assert options.levels == ("learn", "participant", "group")


def test_the_demo_is_a_command_line(tmp_path):
    arguments = demo_arguments(tmp_path / "demo")
    options = parse(["--demo", str(tmp_path / "demo"), "--steps", "3"])
    assert options.output_dir == tmp_path / "demo"
    assert options.levels == ("learn", "participant", "group")
    assert options.config.training.steps == 3
    assert options.command == ("l2s-pydra", *arguments, "--steps", "3")


def test_relative_paths_are_recorded_whole(phantom, tmp_path, monkeypatch):
    """What lies outside the folders of the run is cut from records only if it can be told."""
    home = tmp_path / "someone"
    for name in ("here", "models/model-x", "work ß"):
        (home / name).mkdir(parents=True)
    (home / "settings.json").write_text("{}")
    monkeypatch.chdir(home / "here")
    line = [
        str(phantom),
        "../out",
        "participant",
        "--model",
        "../models/model-x",
        "-w",
        "../work ß",
    ]
    line += ["--set=synthesis.priors=@../settings.json", "--set", "training.steps=3"]
    options = parse(line)
    assert options.output_dir == home / "out"
    assert options.model == str(home / "models" / "model-x")
    record = run_record(run="x", command=options.command, settings={}, places=options.places)
    assert record["command"]["line"] == [
        *("l2s-pydra", "<bids_dir>", "<output_dir>", "participant", "--model", "model-x"),
        *("-w", "<work_dir>", "--set=synthesis.priors=@settings.json", "--set", "training.steps=3"),
    ]


def test_usage_errors_are_configuration_errors(arguments):
    with pytest.raises(ConfigError) as caught:
        parse(arguments("--unknown"))
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(("threads", "told"), [("2", True), ("1", False)])
def test_more_threads_than_cpus_are_told(arguments, caplog, monkeypatch, threads, told):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    options = parse(arguments("--nprocs", "1", "--omp-nthreads", threads))
    bids_app._set_up_processes(options)
    assert ("--omp-nthreads 2 is more than --nprocs 1" in caplog.text) == told


def test_an_invalid_data_set_is_16(data, tmp_path, capsys):
    (data / "sub-04" / "anat" / "sub-04_T1x.nii.gz").write_bytes(b"")
    command = [str(data), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    done = subprocess.run(
        [sys.executable, "-m", "l2s_pydra", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 16
    assert "sub-04_T1x.nii.gz" in done.stderr
    assert "--skip-bids-validation" in done.stderr


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--model", "{model}", "--modality", "T2w"), 18, "T2w"),
        (("--model", "{model}", "--participant-label", "99"), 65, "99"),
        (("--model", "{model}", "--segmentation", "aseg"), 64, "seg-tissue"),
        (("--model", "/nowhere"), 65, "/nowhere"),
        (("--model", "nobody's"), 65, "nobody's"),
    ],
)
def test_wrong_data_is_one_line_and_an_exit_code(arguments, model, more, code, said):
    command = arguments("--skip-bids-validation", *(part.format(model=model) for part in more))
    done = subprocess.run(
        [sys.executable, "-m", "l2s_pydra.workflows.cli", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_training_refuses_is_wrong_usage(app, phantom, tmp_path):
    setting = 'augmentation.options={"bias":3}'
    run = app(phantom, tmp_path / "out", tmp_path / "work", "learn", "--set", setting)
    assert run.code == 64
    (log,) = (tmp_path / "out" / "logs").rglob("crash-learn.txt")
    (line,) = (line for line in run.said.splitlines() if "ERROR" in line)
    assert "bias must lie" in line
    assert str(log) in line


def test_outputs_that_are_asked_for(arguments):
    plain = parse(arguments())
    assert (plain.res, plain.keep_largest, plain.flip, plain.entropy) == (None, None, True, False)
    asked = parse(
        arguments(
            *("--res", "1mm", "--entropy", "--no-flip", "--test-time-draws", "4"),
            *("--max-memory-mb", "2000", "--keep-largest"),
        )
    )
    assert (asked.res, asked.entropy, asked.flip, asked.test_time_draws) == ("1mm", True, False, 4)
    assert (asked.max_memory_mb, asked.keep_largest) == (2000, ())
    named = parse(arguments("--keep-largest", "thalamus", "putamen"))
    assert named.keep_largest == ("thalamus", "putamen")
