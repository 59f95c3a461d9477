"""Options from a file: what one writes, and what a run left."""

import shutil
import tomllib

import attrs
import pytest

from l2s_pydra.config import PRESETS, preset
from l2s_pydra.errors import ConfigError
from l2s_pydra.workflows.cli import main, parse
from l2s_pydra.workflows.options import Options
from l2s_pydra.workflows.session import Session, to_toml


@pytest.fixture
def arguments(phantom, tmp_path):
    def arguments(*more, level="participant"):
        return [str(phantom), str(tmp_path / "out"), level, "-w", str(tmp_path / "work"), *more]

    return arguments


@pytest.fixture
def file(tmp_path):
    def file(text):
        path = tmp_path / "options é.toml"
        path.write_text(text, encoding="utf-8")
        return ("--config-file", str(path))

    return file


def without_place(options):
    """All that a file can say."""
    return attrs.evolve(options, command=(), verbosity=0)


OPTIONS = (
    *("--participant-label", "01", "02", "--session-label", "a", "--modality", "T1w", "T2w"),
    *("--probseg", "--no-flip", "--keep-largest", "--mem", "16GB", "--device", "cpu"),
    *("--preset", "quick", "--set", "training.batch_size=2", "--set", "synthesis.priors={}"),
    *("--mode", "synthseg", "--steps", "7", "--test-time-draws", "2", "--seg", "x"),
)
FILE = """
participant-label = ["01", "sub-02"]
session_label = "a"
modality = ["T1w", "T2w"]
probseg = true
entropy = false
no-flip = true
keep-largest = []
mem = "16GB"
device = "cpu"
preset = "quick"
set = ["training.batch_size=2", "synthesis.priors={}"]
mode = "synthseg"
steps = 7
test-time-draws = 2
"""


def test_a_file_says_what_the_command_line_says(arguments, file):
    typed = parse(arguments(*OPTIONS[:-2]))
    assert without_place(parse(arguments(*file(FILE)))) == without_place(typed)


def test_the_command_line_wins(arguments, file):
    more = ("--participant-label", "03", "--steps", "9", "--set", "training.batch_size=1")
    options = parse(arguments(*file(FILE), *more))
    assert options.participants == ("03",)
    assert options.config.training.steps == 9
    assert options.config.training.batch_size == 1
    assert options.config.training.mode == "synthseg"
    other = parse(arguments(*file('set = ["training.steps=3"]\nwork-dir = "/w"'), "--steps", "9"))
    assert other.config.training.steps == 9
    assert other.work_dir.name == "work"
    assert parse(arguments(*file(FILE), "--preset", "default")).config == preset("default")


def test_settings_are_tables(arguments, file):
    text = 'preset = "quick"\nndim = 2\n[config]\nspacing_mm = 2\n[config.training]\nsteps = 5\n'
    config = parse(arguments(*file(text))).config
    assert config == preset("quick", ndim=2).evolve(spacing_mm=2, training__steps=5)


def test_derivatives_and_places(arguments, file, phantom):
    text = """
    real-labels = "manual"
    label-maps = "<bids_dir>/derivatives/labelmaps"
    [derivatives]
    manual = "<bids_dir>/derivatives/reference"
    """
    options = parse(arguments(*file(text), level="learn"))
    assert options.real_labels == phantom / "derivatives" / "reference"
    assert options.label_maps == phantom / "derivatives" / "labelmaps"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "as TOML"),
        ("particpant-label = '01'", "did you mean participant-label?"),
        ("xyzzy = 1", "unknown key 'xyzzy'"),
        ("bids_dir = '/data'", "on the command line"),
        ("config-file = 'other.toml'", "unknown key"),
        ("probseg = 'yes'", "true or false"),
        ("steps = [1, 2]", "one value"),
        ("steps = true", "text or a number"),
        ("steps = 'many'", "many"),
        ("nprocs = 0", "'0'"),
        ("mode = 'magic'", "magic"),
        ("[config.training]\nstops = 3", "stops"),
        ("[config.training]\nsteps = -3", "steps"),
        ("label-mapping = '/nowhere.tsv'", "no such file"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file(arguments, file, capsys, text, said):
    assert main(arguments(*file(text))) == 64
    message = capsys.readouterr().err
    assert "options é.toml: " in message
    assert said in message
    assert message.count("\n") == 1


def record_of(options, tmp_path):
    """What a run of these options leaves."""
    session = Session(options=options, uuid="x", cache=tmp_path / "c", stage=tmp_path / "s")
    path = tmp_path / "record.toml"
    path.write_text(to_toml(session.record()), encoding="utf-8")
    return ("--config-file", str(path))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--keep-largest", "--low-mem", "--mem", "8GB", "--omp-nthreads", "1", "--debug"),
        ("--set", "training.theta_trust=0.5", "--augmentation", "noise", "--random-seed", "4"),
        ("--set", "synthesis.crop=[8,8,8]", "-d", "maps={maps}", "--label-maps", "maps"),
        ("--compare", "synthseg", "learn2synth", "--seeds", "2", "--folds", "2"),
    ],
)
def test_a_record_says_all_that_was_decided(arguments, phantom, tmp_path, name, more):
    folder = phantom / "derivatives"
    labels = ("--real-labels", str(folder / "reference"))
    more = tuple(value.format(maps=folder / "labelmaps") for value in more)
    before = parse(arguments(*labels, "--preset", name, *more, level="learn"))
    again = parse(arguments(*record_of(before, tmp_path), level="learn"))
    assert without_place(again) == without_place(before)


def test_a_record_of_another_place_asks_for_what_it_cannot_know(arguments, phantom, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(phantom / "derivatives" / "reference", elsewhere)
    (tmp_path / "filters.json").write_text("{}")
    filters = ("--bids-filter-file", str(tmp_path / "filters.json"))
    before = parse(arguments("--real-labels", str(elsewhere), *filters, level="learn"))
    record = record_of(before, tmp_path)
    assert str(tmp_path) not in (tmp_path / "record.toml").read_text()
    with pytest.raises(ConfigError, match="give it by --real-labels"):
        parse(arguments(*record, *filters, level="learn"))
    with pytest.raises(ConfigError, match="give it by --bids-filter-file"):
        parse(arguments(*record, "--real-labels", str(elsewhere), level="learn"))
    again = parse(arguments(*record, *filters, "--real-labels", str(elsewhere), level="learn"))
    assert without_place(again) == without_place(before)
    # Segmenting needs no manual labels.
    assert parse(arguments(*record, *filters)).real_labels is None


def test_every_field_of_the_options_can_be_in_a_record(arguments, tmp_path):
    (tmp_path / "empty.toml").write_text("")
    record = record_of(parse(arguments()), tmp_path)
    settings = tomllib.loads((tmp_path / "record.toml").read_text())["settings"]
    assert set(settings) <= {field.name for field in attrs.fields(Options)}
    parse(arguments(*record))


def test_the_record_of_a_finished_run_repeats_it(app, copied, phantom, tmp_path):
    (record, *_) = sorted(copied.output.glob("sub-04/log/*/l2s_pydra.toml"))
    places = [str(phantom), str(copied.output), "learn", "participant", "group"]
    run = app.plain(*places, "-w", str(copied.work), "--config-file", str(record))
    assert run.code == 0, run.said
    assert "the same model was learned before" in run.said
    assert "5 reused" in run.said
