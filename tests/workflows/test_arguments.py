"""What options take, and what they refuse."""

import subprocess
import sys

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
