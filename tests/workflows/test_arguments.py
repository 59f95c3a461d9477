"""What options take, and what they refuse."""

import subprocess
import sys

import attrs
import pytest

from l2s_pydra.errors import ConfigError
from l2s_pydra.workflows.arguments import build_parser
from l2s_pydra.workflows.cli import main, parse


@pytest.fixture
def arguments(phantom, tmp_path):
    def arguments(*more, level="participant"):
        return [str(phantom), str(tmp_path / "out"), level, "-w", str(tmp_path / "work"), *more]

    return arguments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("01\n02\n", ("01", "02")),
        ("sub-01, sub-02 03", ("01", "02", "03")),
        ("01 # the first\n\n#02\n01\n", ("01",)),
        ("\ufeffparticipant_id\tage\nsub-07\t1\nsub-08\t2\n", ("07", "08")),
    ],
)
@pytest.mark.parametrize("at", ["", "@"])
def test_labels_come_from_text_files(arguments, tmp_path, text, expected, at):
    file = tmp_path / "some subjects.txt"
    file.write_text(text, encoding="utf-8")
    assert parse(arguments("--participant-label", f"{at}{file}")).participants == expected


def test_files_and_labels_mix(arguments, tmp_path, monkeypatch):
    (tmp_path / "more").write_text("03")
    monkeypatch.chdir(tmp_path)
    asked = ("--participant-label", "01,sub-02", "@more", "02", "--session-id", "ses-a,b")
    options = parse(arguments(*asked))
    assert options.participants == ("01", "02", "03")
    assert options.sessions == ("a", "b")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("@nowhere.txt", "nowhere.txt"),
        ("a_b", "neither a label"),
        ("{empty}", "holds no label"),
        ("{wrong}", "'no/label'"),
        ("{binary}", "as text"),
        ("{tmp}", "come first"),
    ],
)
def test_wrong_labels_are_named(arguments, tmp_path, capsys, value, said):
    (tmp_path / "empty.txt").write_text("# nobody\n")
    (tmp_path / "wrong.txt").write_text("01 no/label")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    files = {name: tmp_path / f"{name}.txt" for name in ("empty", "wrong", "binary")}
    assert main(arguments("--participant-label", value.format(tmp=tmp_path, **files))) == 64
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "text", "mb"),
    [
        ("--mem", "16000", 16000),
        ("--mem", "16GB", 16000),
        ("--mem", "7.5g", 7500),
        ("--mem", "1T", 1_000_000),
        ("--mem", "8 gb", 8000),
        ("--mem", "2GiB", 2147),
        ("--mem-mb", "2000", 2000),
        ("--mem_gb", "16", 16000),
        ("--mem-gb", "900M", 900),
    ],
)
def test_memory_has_units(arguments, option, text, mb):
    assert parse(arguments(option, text)).mem_mb == mb


@pytest.mark.parametrize(("text", "said"), [("16", "16GB"), ("much", "16GB"), ("-3", "--mem")])
def test_memory_that_cannot_be_meant_is_refused(arguments, text, said):
    with pytest.raises(ConfigError, match=said):
        parse(arguments("--mem", text))


@pytest.mark.parametrize(
    ("more", "mb"),
    [
        ((), None),
        (("--mem", "16GB"), None),
        (("--mem", "3GB"), 2000),
        (("--mem", "1GB"), 500),
        (("--low-mem",), 1000),
        (("--low-mem", "--mem", "1.5GB"), 750),
        (("--low-mem", "--max-memory-mb", "3000"), 3000),
    ],
)
def test_little_memory_bounds_the_network(arguments, more, mb):
    assert parse(arguments(*more)).network_mb == mb


def test_little_memory_computes_activations_twice(arguments):
    assert parse(arguments("--low-mem")).config.training.checkpoint_activations
    assert not parse(arguments()).config.training.checkpoint_activations


def test_derivatives_have_names(arguments, phantom):
    folder = phantom / "derivatives"
    named = (f"manual={folder / 'reference'}", str(folder / "labelmaps"))
    use = ("--real-labels", "manual", "--label-maps", "labelmaps", "--references", "manual")
    options = parse(arguments("--derivatives", *named, *use, level="learn"))
    assert options.derivatives == {
        "manual": folder / "reference",
        "labelmaps": folder / "labelmaps",
    }
    assert options.real_labels == options.references == folder / "reference"
    assert options.label_maps == folder / "labelmaps"
    again = parse(arguments("-d", named[0], "-d", named[1]))
    assert again.derivatives == options.derivatives


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("-d", "raw={ref}"), "something else"),
        (("-d", "a b={ref}"), "cannot name"),
        (("-d", "a={ref}", "a={maps}"), "is both"),
        (("-d", "a=/nowhere"), "no such folder"),
        (("-d", "a={ref}", "--real-labels", "b"), "those of --derivatives: a"),
    ],
)
def test_wrong_derivatives_are_named(arguments, phantom, values, said):
    folder = phantom / "derivatives"
    places = {"ref": folder / "reference", "maps": folder / "labelmaps"}
    with pytest.raises(ConfigError, match=said):
        parse(arguments(*(value.format(**places) for value in values)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("--particpant-label", "did you mean --participant-label?"),
        ("--participant_lable", "did you mean --participant-label?"),
        ("--n-procs", "did you mean --nprocs?"),
        ("--batch-size=4", "--set training.batch_size=N"),
        ("--gpus", "--device"),
        ("--xyzzy", "unknown option --xyzzy; see"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_the_nearest_option_is_suggested(arguments, capsys, wrong, said, alone):
    assert main([wrong] if alone else arguments(wrong, "01")) == 64
    assert said in capsys.readouterr().err


def test_a_level_behind_labels_is_explained(phantom, tmp_path, capsys):
    assert (
        main([str(phantom), str(tmp_path / "o"), "--participant-label", "1", "participant"]) == 64
    )
    assert "LEVEL; put them before" in capsys.readouterr().err


def test_the_legacy_layout_is_a_folder_below(arguments, phantom, tmp_path):
    options = parse(arguments("--output-layout", "legacy"))
    assert options.output_dir == tmp_path / "out" / "l2s_pydra"
    below = [str(phantom), str(phantom), "participant", "--output-layout", "legacy"]
    with pytest.raises(ConfigError, match="inside the raw data set"):
        parse(below)


def test_places_are_apart(data, tmp_path):
    def code(output, work=tmp_path / "work"):
        try:
            parse([str(data), str(output), "participant", "-w", str(work)])
        except ConfigError as error:
            return str(error)
        return ""

    assert code(data / "derivatives" / "l2s_pydra") == ""
    assert "inside the raw data set" in code(data / "out")
    assert "inside the output folder" in code(tmp_path)
    inner = tmp_path / "derivative" / "sourcedata" / "raw"
    inner.parent.mkdir(parents=True)
    data.rename(inner)
    data = inner
    assert code(tmp_path / "derivative") == ""


def test_paths_are_resolved_first(phantom, tmp_path, monkeypatch):
    home = tmp_path / "hôme 家"
    (home / "d").mkdir(parents=True)
    (home / "raw data ü").symlink_to(phantom)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "d")
    options = parse(["../raw data ü", "~/aus gabe", "participant", "-w", "~/d/../w"])
    assert options.bids_dir == phantom.resolve()
    assert options.output_dir == home / "aus gabe"
    assert options.work_dir == home / "w"


def test_sloppy_is_fast_and_gives_way(arguments, phantom):
    labels = ("--real-labels", str(phantom / "derivatives" / "reference"))
    config = parse(arguments("--sloppy", *labels, level="learn")).config
    assert (config.training.steps, config.spacing_mm, config.segmenter.width) == (20, 4.0, 4)
    config = parse(arguments("--sloppy", "--steps", "3", "--preset", "paper")).config
    assert (config.training.steps, config.segmenter.ndim) == (3, 2)


def test_debug_says_everything(arguments):
    options = parse(arguments("--debug", "--notrack"))
    assert (options.debug, options.verbosity) == (True, 2)


def test_the_help_fits_a_terminal():
    help_text = build_parser().format_help()
    assert max(map(len, help_text.splitlines())) <= 80
    for action in build_parser()._actions:
        for name in [name for name in action.option_strings if "_" not in name][:1]:
            assert f"{name}" in help_text
    for title in ("which images", "learn", "participant and group", "resources", "general"):
        assert f"\n{title}:\n" in help_text


USAGE = [["--help"], ["--version"], ["--what"], [], ["a", "b", "c"]]


@pytest.mark.parametrize("argv", USAGE, ids=[" ".join(argv) or "nothing" for argv in USAGE])
def test_nothing_heavy_is_imported_for_help_and_wrong_usage(argv):
    heavy = {
        *("torch", "bids", "pydra", "nipype", "nibabel", "matplotlib", "scipy", "numpy"),
        *("jinja2", "fileformats", "sqlalchemy", "pandas", "asyncio", "multiprocessing"),
    }
    code = (
        "import sys; from l2s_pydra.workflows.cli import main; main(sys.argv[1:]);"
        f"found = set(sys.modules) & {heavy!r}; assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code, *argv], check=True, capture_output=True, timeout=60)


def test_workers_take_their_arguments(arguments):
    words = ("max_jobs=50", "task_args.Learn=--time=24:00:00 --mem=32G", "result_delay=5")
    options = parse(arguments("--worker", "slurm", "--worker-args", *words))
    assert options.worker == "slurm"
    assert options.worker_args == {
        "max_jobs": 50,
        "task_args": {"Learn": "--time=24:00:00 --mem=32G"},
        "result_delay": 5.0,
    }
    options = parse(arguments("--worker-args", '{"n_procs": 3, "memory_gb": 8}'))
    assert (options.worker, options.worker_args) == ("l2s", {"n_procs": 3, "memory_gb": 8.0})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--worker", "slrum"), "'slrum' is unknown; available: l2s, cf, debug, slurm, sge"),
        (("--worker-args", "n_proc=3"), "did you mean n_procs?"),
        (("--worker-args", "n_procs=three"), "n_procs takes a whole number, not 'three'"),
        (("--worker-args", "n_procs=-1"), "cannot be negative"),
        (("--worker-args", "n_procs=true"), "takes a whole number"),
        (("--worker-args", "many"), "expected KEY=VALUE"),
        (("--worker-args", "{[]"), "is not a JSON object"),
        (("--worker", "debug", "--worker-args", "n_procs=3"), "it takes: none"),
        (("--worker", "slurm", "--worker-args", "task_args=-p x"), "task_args.Segment="),
        (("--worker", "slurm", "--worker-args", "gpus=1", "gpus.x=2"), "both as a table"),
        (("--worker", "cf", "--stop-on-first-crash"), "use the worker l2s"),
        (("--use-plugin", "{tmp}/dask.yml"), "'Dask' is unknown; available: l2s"),
        (("--use-plugin", "{tmp}/broken.yml"), "cannot be read as YAML"),
        (("--use-plugin", "{tmp}/broken.toml"), "cannot be read as YAML, TOML"),
        (("--use-plugin", "{tmp}/list.json"), "expected a table"),
        (("--use-plugin", "{tmp}/other.json"), "'plugins' is unknown"),
        (("--use-plugin", "{tmp}/nowhere.yml"), "no such file"),
    ],
)
def test_wrong_workers_are_refused_in_one_line(arguments, tmp_path, capsys, words, said):
    (tmp_path / "dask.yml").write_text("plugin: Dask\n")
    (tmp_path / "broken.yml").write_text("plugin: [\n")
    (tmp_path / "broken.toml").write_text("plugin = \n")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"plugins": "x"}')
    assert main(arguments(*(word.replace("{tmp}", str(tmp_path)) for word in words))) == 64
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "worker", "taken", "hints"),
    [
        (
            "p.yml",
            "plugin: MultiProc\nplugin_args: {n_procs: 4, n_gpu_procs: 1, maxtasksperchild: 1}\n",
            "l2s",
            {"n_procs": 4, "gpus": 1},
            ["MultiProc is the worker l2s", "maxtasksperchild has no counterpart"],
        ),
        (
            "p.toml",
            'plugin = "SLURM"\n[plugin_args]\nsbatch_args = "--partition=main"\n',
            "slurm",
            {"sbatch_args": "--partition=main"},
            ["SLURM is the worker slurm"],
        ),
        (
            "p.json",
            '{"worker": "sge", "worker_args": {"qsub_args": "-q long.q"}}',
            "sge",
            {"qsub_args": "-q long.q"},
            [],
        ),
    ],
)
def test_plugin_files(arguments, tmp_path, caplog, name, text, worker, taken, hints):
    (tmp_path / name).write_text(text)
    options = parse(arguments("--use-plugin", str(tmp_path / name)))
    assert (options.worker, options.worker_args) == (worker, taken)
    assert len(caplog.messages) == len(hints)
    assert all(hint in said for hint, said in zip(hints, caplog.messages, strict=True))


def test_the_command_line_wins_over_the_plugin_file(arguments, tmp_path):
    (tmp_path / "p.yml").write_text("worker: slurm\nworker_args: {max_jobs: 5, cpus: 2}\n")
    plugin = ("--use-plugin", str(tmp_path / "p.yml"))
    options = parse(arguments(*plugin, "--worker-args", "max_jobs=7"))
    assert (options.worker, options.worker_args) == ("slurm", {"max_jobs": 7, "cpus": 2})
    options = parse(arguments(*plugin, "--worker", "debug"))
    assert (options.worker, options.worker_args) == ("debug", {})


def test_workers_come_from_the_configuration_file_too(arguments, tmp_path):
    (tmp_path / "c.toml").write_text(
        'worker = "slurm"\n[worker-args]\nmax_jobs = 7\ntask_args = {Learn = "--mem=9G"}\n'
    )
    options = parse(arguments("--config-file", str(tmp_path / "c.toml")))
    assert options.worker == "slurm"
    assert options.worker_args == {"max_jobs": 7, "task_args": {"Learn": "--mem=9G"}}


def test_the_list_of_arguments_is_that_of_the_classes():
    from l2s_pydra.workflows.sge import L2SSgeWorker
    from l2s_pydra.workflows.slurm import L2SSlurmWorker
    from l2s_pydra.workflows.worker import L2SWorker
    from l2s_pydra.workflows.worker_names import WORKERS

    for name, kind in (("l2s", L2SWorker), ("slurm", L2SSlurmWorker), ("sge", L2SSgeWorker)):
        fields = {field.name for field in attrs.fields(kind) if field.init}
        assert set(WORKERS[name]) <= fields
    own = {f.name for f in attrs.fields(L2SSlurmWorker) if f.init and not f.inherited}
    assert own <= set(WORKERS["slurm"])
