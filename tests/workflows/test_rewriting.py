"""Pages and methods text anew, without computing."""

import pytest
from filelock import FileLock, Timeout

from l2s_pydra.bids.publishing import HIDDEN
from l2s_pydra.workflows import rewriting
from l2s_pydra.workflows.cli import main, parse

ALL = ("learn", "participant", "group")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pages(folder):
    return {path for path in contents(folder) if path.suffix == ".html" and path.name[0] != "C"}


def arguments(run, phantom, levels, *more):
    return [str(phantom), str(run.output), *levels, "-w", str(run.work), *more]


def test_lost_pages_come_back_as_they_were(copied, app, phantom):
    before = contents(copied.output)
    lost = pages(copied.output)
    assert len(lost) == 6
    for page in lost:
        page.unlink()
    (figure, *_) = (copied.output / "models").rglob("figures/*.png")
    figure.unlink()
    run = app.plain(*arguments(copied, phantom, ALL, "--reports-only"))
    assert run.code == 0, run.said
    assert pages(copied.output) == lost
    assert figure.is_file()
    for page in lost - {copied.output / "group.html"}:
        assert page.read_bytes() == before[page], page.name
    # Nothing but pages was written, apart from what the software notes down for itself.
    changed = {p for p, content in contents(copied.output).items() if before.get(p) != content}
    notes = {p for p in changed if p.name.startswith(".") or p.name == "manifest.json"}
    assert changed - notes <= lost
    assert "segmenting" not in run.said


def test_pages_of_some(copied, app, phantom):
    for page in pages(copied.output):
        page.unlink()
    few = ("--participant-label", "02", "--reports-only")
    run = app.plain(*arguments(copied, phantom, ["participant"], *few))
    assert run.code == 0, run.said
    assert pages(copied.output) == {copied.output / "sub-02.html"}


def test_a_damaged_table_of_volumes_stops_no_other(copied, app, phantom):
    (table,) = copied.output.glob("sub-02/anat/*_morph.tsv")
    table.write_bytes(b"\xff\xfe")
    run = app.plain(*arguments(copied, phantom, ["group"], "--skip-bids-validation"))
    assert run.code == 1, run.said
    assert f"{table}: cannot read the table" in run.said
    assert "4 image(s) gathered" in run.said
    assert "sub-02" not in (copied.output / "seg-tissue_morph.tsv").read_text()
    assert table.name in (copied.output / "group.html").read_text(encoding="utf-8")
    assert list(copied.output.glob("sub-02/log/*/crash-*Volumes.txt"))


def test_no_other_run_writes_while_the_methods_text_is_made(copied, phantom, monkeypatch):
    write, held = rewriting.write_methods, []

    def write_alone(*places, **facts):
        with pytest.raises(Timeout):
            FileLock(copied.output / HIDDEN / "lock").acquire(timeout=0)
        held.append(True)
        return write(*places, **facts)

    monkeypatch.setattr(rewriting, "write_methods", write_alone)
    assert main(arguments(copied, phantom, ["participant"], "--boilerplate-only")) == 0
    assert held


def test_a_label_table_that_is_gone_stops_no_other_comparison(copied, app, phantom):
    (gone,) = copied.output.glob("sub-02/anat/*_desc-T1w_dseg.tsv")
    gone.unlink()
    references = ("--references", str(phantom / "derivatives" / "reference"))
    run = app.plain(*arguments(copied, phantom, ["group"], *references, "--skip-bids-validation"))
    assert run.code == 1, run.said
    assert f"{gone}: is missing; run the level participant again" in run.said
    assert "5 image(s) gathered" in run.said
    table = (copied.output / "seg-tissue_dice.tsv").read_text()
    assert "sub-01" in table
    assert "sub-02" not in table


def test_dice_stays_on_the_page_where_nothing_is_compared_anew(copied, app, phantom):
    table = (copied.output / "seg-tissue_dice.tsv").read_bytes()
    run = app.plain(*arguments(copied, phantom, ["group"], "--skip-bids-validation"))
    assert run.code == 0, run.said
    assert "0 compared" in run.said
    assert (copied.output / "seg-tissue_dice.tsv").read_bytes() == table
    assert 'id="dice-images"' in (copied.output / "group.html").read_text(encoding="utf-8")


def test_the_methods_text_is_printed_and_written(copied, app, phantom, finished):
    texts = [copied.output / "logs" / f"CITATION.{kind}" for kind in ("md", "html", "bib")]
    for text in texts:
        text.unlink()
    run = app.plain(*arguments(copied, phantom, ["participant"], "--boilerplate-only"))
    assert run.code == 0, run.said
    assert run.printed == texts[0].read_text(encoding="utf-8")
    for text in texts:
        place = finished.output / text.relative_to(copied.output)
        assert text.read_text(encoding="utf-8") == place.read_text(encoding="utf-8")


def test_the_methods_text_of_a_model_that_was_not_used_yet(app, model, phantom, tmp_path):
    places = [str(phantom), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    run = app.plain(*places, "--boilerplate-only", "--model", str(model))
    assert run.code == 0, run.said
    assert model.name.removeprefix("model-") in run.printed


@pytest.mark.parametrize("option", ["--reports-only", "--boilerplate-only"])
def test_nothing_to_tell_of(app, phantom, tmp_path, option):
    places = [str(phantom), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    run = app.plain(*places, option)
    assert run.code == 65
    assert "run the level participant first" in run.said


@pytest.mark.parametrize(
    "more",
    [
        ("--reports-only", "--boilerplate-only"),
        ("--reports-only", "--clean-workdir"),
        ("--boilerplate-only", "--preview", "3"),
    ],
)
def test_one_thing_at_a_time(phantom, tmp_path, capsys, more):
    places = [str(phantom), str(tmp_path / "out"), "learn", "-w", str(tmp_path / "work")]
    assert main([*places, *more]) == 64
    assert "exclude each other" in capsys.readouterr().err


def test_pages_of_models_need_no_labels(phantom, tmp_path):
    places = [str(phantom), str(tmp_path / "out"), "learn", "-w", str(tmp_path / "work")]
    assert parse([*places, "--reports-only"]).real_labels is None
