"""The application shows draws and trains nothing."""

import json

import pytest

from l2s_pydra.errors import ConfigError
from l2s_pydra.workflows.cli import main, parse


@pytest.fixture(scope="module")
def shown(app, phantom, tmp_path_factory):
    """A preview of three draws."""
    folder = tmp_path_factory.mktemp("shown")
    run = app(phantom, folder / "out", folder / "work", "learn", "--preview", "3")
    assert run.code == 0, run.said
    return run


def learn_arguments(phantom, tmp_path, *more):
    labels = ("--real-labels", str(phantom / "derivatives" / "reference"))
    return [str(phantom), str(tmp_path / "out"), "learn", *labels, *more]


def test_the_page_is_in_the_output_folder(shown, derivative_is_valid):
    folder = shown.output / "preview"
    assert (folder / "index.html").is_file()
    assert json.loads((folder / "priors.json").read_text())
    assert len(list((folder / "figures").glob("wide-*.png"))) == 3
    assert "preview/index.html" in shown.said
    assert {path.name for path in shown.output.rglob(".*")} == {".l2s_pydra", ".bidsignore"}
    derivative_is_valid(shown.output)


def test_nothing_is_trained_and_the_run_is_recorded(shown):
    assert not {path.name for path in shown.output.iterdir()} & {"models", "comparison"}
    (record,) = shown.output.glob("logs/*/l2s_pydra.toml")
    assert "preview = 3" in record.read_text()
    assert not (shown.work / "checkpoints").exists()


def test_later_levels_do_not_run_and_fewer_draws_replace_more(app, phantom, tmp_path):
    arguments = (phantom, tmp_path / "out", tmp_path / "work", "learn", "participant", "group")
    for count in (2, 1):
        run = app(*arguments, "--preview", str(count))
        assert run.code == 0, run.said
        pictures = [path.name for path in (run.output / "preview" / "figures").glob("wide-*.png")]
        assert len(pictures) == count
    assert not list(run.output.glob("sub-*"))


def test_its_priors_can_be_given_to_the_next_run(shown, app, phantom, tmp_path):
    priors = shown.output / "preview" / "priors.json"
    setting = ("--set", f"synthesis.priors=@{priors}")
    run = app(phantom, tmp_path / "out", tmp_path / "work", "learn", "--preview", "1", *setting)
    assert run.code == 0, run.said
    page = (run.output / "preview" / "index.html").read_text()
    assert "White-Matter" in page.split("synthesis.priors")[2]
    (record,) = run.output.glob("logs/*/l2s_pydra.toml")
    assert str(priors.parent) not in record.read_text()


def test_a_broken_image_is_a_failure(app, data, tmp_path):
    image = next((data / "sub-01").rglob("*_T1w.nii.gz"))
    image.chmod(0o644)
    image.write_bytes(b"no image")
    options = ("learn", "--preview", "1", "--skip-bids-validation")
    run = app(data, tmp_path / "out", tmp_path / "work", *options)
    assert run.code == 65, run.said
    assert image.name in run.said
    assert list(run.output.glob("logs/*/crash-preview.txt"))
    assert not (run.output / "preview").exists()


def test_values_of_settings_can_be_files(phantom, tmp_path):
    priors = {"grey": [0.5, 0.1, 0.05, 0.01]}
    (tmp_path / "p.json").write_text(json.dumps(priors))
    setting = f"synthesis.priors=@{tmp_path / 'p.json'}"
    config = parse(learn_arguments(phantom, tmp_path, "--set", setting)).config
    assert config.synthesis.priors == {"grey": (0.5, 0.1, 0.05, 0.01)}


@pytest.mark.parametrize("content", [None, "{"])
def test_a_file_that_cannot_be_read_is_named(phantom, tmp_path, capsys, content):
    file = tmp_path / "p.json"
    if content is not None:
        file.write_text(content)
    setting = ("--set", f"synthesis.priors=@{file}")
    assert main(learn_arguments(phantom, tmp_path, *setting)) == 64
    assert str(file) in capsys.readouterr().err


def test_preview_needs_the_level_learn(phantom, tmp_path):
    with pytest.raises(ConfigError, match="--preview"):
        parse([str(phantom), str(tmp_path / "out"), "participant", "--preview", "2"])
    with pytest.raises(ConfigError, match="whole number"):
        parse(learn_arguments(phantom, tmp_path, "--preview", "0"))
