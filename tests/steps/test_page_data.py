"""Pages show all images of a participant, whatever a run was about."""

import html
import json
import re

import attrs
import pytest

from l2s_pydra.steps.page_data import PageData, everyone
from l2s_pydra.steps.report import (
    read_groups,
    refresh_participant,
    report_group,
    report_participant,
)

MODEL = {"name": "m1", "sha256": "ff", "version": "0.1.0"}


def refresh_participants(output_dir, out_dir, bids_dir=None):
    """Pages of everyone, as they are made anew."""
    places = {"output_dir": output_dir, "bids_dir": bids_dir, "groups": read_groups(output_dir)}
    return [
        refresh_participant(participant=who, out_file=out_dir / f"{who}.html", **places)
        for who, _ in everyone(output_dir)
    ]


@attrs.frozen
class Page:
    """A page as text, its marks of structure gone."""

    source: str

    @property
    def words(self):
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.source)).split())


@pytest.fixture
def read_page():
    return lambda path: Page(path.read_text())


def run_of(name):
    return {"run": {"id": name}, "command": {"line": ["l2s-pydra", name]}}


@pytest.fixture
def summary(tmp_path):
    """Write a summary and what it names; return its path."""

    def summary(session="a", who="01", volume=2000.0, **changes):
        stem = f"sub-{who}_ses-{session}"
        dseg = f"sub-{who}/ses-{session}/anat/{stem}_seg-x_desc-T1w_dseg.nii.gz"
        values = {
            "image": f"{stem}_T1w",
            "source": f"sub-{who}/ses-{session}/anat/{stem}_T1w.nii.gz",
            "entities": {"subject": who, "session": session, "suffix": "T1w"},
            "segmentation": "x",
            "dseg": dseg,
            "figure": "",
            "volumes": [{"index": 4, "name": "stem", "volume_mm3": volume}],
            "warnings": [],
            "flags": [{"kind": "score", "structures": ["stem"], "text": f"odd {session}"}],
            "model": MODEL,
            "shape": [4, 4, 4],
            "spacing_mm": [1.0, 1.0, 1.0],
            **changes,
        }
        (tmp_path / "out" / dseg).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / dseg).touch()
        path = tmp_path / f"{stem}.json"
        path.write_text(json.dumps(values))
        return path

    return summary


@pytest.fixture
def report(tmp_path):
    def report(name, *summaries, failures=(), who="sub-01"):
        out = tmp_path / "out"
        return report_participant(
            participant=who,
            summaries=summaries,
            output_dir=out,
            run=run_of(name),
            failures=failures,
            out_file=out / f"{who}.html",
            data_file=PageData.place(who, out),
        )

    return report


def failure(session):
    source = f"sub-01/ses-{session}/anat/sub-01_ses-{session}_T1w.nii.gz"
    return {"file": source, "reason": f"broken {session}", "log": None}


def test_images_and_failures_of_earlier_runs_stay(summary, report, read_page, tmp_path):
    report("run1", summary("a"), failures=[failure("c")])
    page = read_page(report("run2", summary("b")))
    for text in ("session a", "session b", "broken c", "l2s-pydra run1", "l2s-pydra run2"):
        assert text in page.words
    assert 'id="sub-01_ses-a_T1w"' in page.source
    # Mended, the failure is forgotten; made anew, an image belongs to the run that made it
    page = read_page(report("run3", summary("a", seconds=9.0), summary("c")))
    assert "broken" not in page.words
    assert "run1" not in page.words
    assert "Images segmented 3" in page.words


@pytest.fixture
def raw(tmp_path):
    """Raw data set with the images of some sessions; one is a link to what is not fetched."""
    folder = tmp_path / "raw"
    for session in "cd":
        path = folder / failure(session)["file"]
        path.parent.mkdir(parents=True)
        path.symlink_to("not-fetched") if session == "d" else path.touch()
    (folder / "dataset_description.json").touch()
    return folder


def test_failures_of_images_that_were_taken_away_are_dropped(
    summary, report, read_page, tmp_path, raw
):
    report("run1", summary("a"), failures=[failure(session) for session in "cde"])
    out = tmp_path / "out"
    assert len(PageData.read("sub-01", out, tmp_path / "not there").failures) == 3
    (path,) = refresh_participants(output_dir=out, out_dir=tmp_path, bids_dir=raw)
    page = read_page(path)
    assert "broken c" in page.words
    assert "broken d" in page.words
    assert "broken e" not in page.words
    volumes = tmp_path / "volumes.tsv"
    volumes.write_text("name\tlabel\tvolume_mm3\nsub-01_ses-a_T1w\tstem\t2000\n")
    given = {"volumes": volumes, "out_file": tmp_path / "group.html", "output_dir": out}
    assert "3 images failed" in read_page(report_group(**given)).words
    assert "2 images failed" in read_page(report_group(**given, bids_dir=raw)).words


def test_images_from_the_cache_stay_those_of_the_run_that_made_them(summary, report, read_page):
    report("run1", summary("a"))
    page = read_page(report("run2", summary("a"), summary("b")))
    assert "l2s-pydra run1" in page.words
    about = page.words.partition("sub-01/ses-a/anat/")[2].partition("Model")[0]
    assert "Run run1" in about
    assert "run2" not in about


def test_outputs_that_were_deleted_leave_the_page(summary, report, read_page, tmp_path):
    report("run1", summary("a"))
    next((tmp_path / "out").rglob("*ses-a*_dseg.nii.gz")).unlink()
    assert "session a" not in read_page(report("run2", summary("b"))).words


def test_broken_data_are_told_and_written_anew(summary, report, read_page, tmp_path, caplog):
    place = PageData.place("sub-01", tmp_path / "out")
    place.parent.mkdir(parents=True)
    place.write_text('{"images": [1], "failures": [], "runs": {}}')
    assert "session a" in read_page(report("run1", summary("a"))).words
    assert "report.json: image 1: not an object; it is left out of the page" in caplog.text
    assert len(json.loads(place.read_text())["images"]) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}', '{"images": {}, "failures": 1}'])
def test_data_that_are_no_page_are_told(summary, report, read_page, tmp_path, caplog, text):
    place = PageData.place("sub-01", tmp_path / "out")
    place.parent.mkdir(parents=True)
    place.write_text(text)
    assert "session a" in read_page(report("run1", summary("a"))).words
    assert "report.json: cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"volumes": None}, "image 1, 'volumes': not a list"),
        ({"volumes": [{"name": "stem"}]}, "image 1, 'volumes', item 1: without 'index'"),
        ({"warnings": [3]}, "image 1, 'warnings', item 1: not of type str"),
        ({"flags": [{"text": "odd"}]}, "image 1, 'flags', item 1: without 'structures'"),
        ({"intracranial": {"volume_mm3": 3.0}}, "'intracranial': without 'soft_volume_mm3'"),
        ({"model": "m1"}, "image 1, 'model': not an object"),
        ({"seconds": "long"}, "image 1, 'seconds': not of type int"),
    ],
)
def test_a_broken_entry_costs_no_other(
    summary, report, read_page, tmp_path, caplog, changes, fault
):
    report("run1", summary("a"), summary("b"), failures=[failure("c")])
    place = PageData.place("sub-01", tmp_path / "out")
    data = json.loads(place.read_text())
    data["images"][0].update(changes)
    data["failures"].append({"file": "x"})
    data["runs"]["run0"] = []
    place.write_text(json.dumps(data))
    page = read_page(report("run2", summary("d")))
    assert "session a" not in page.words
    for text in ("session b", "session d", "broken c"):
        assert text in page.words
    for text in (fault, "failure 2: without 'reason'", "run run0: not an object"):
        assert text in caplog.text


def group_table(tmp_path, *volumes):
    rows = [f"sub-{i:02d}_ses-a_T1w\tstem\t{v}" for i, v in enumerate(volumes, start=1)]
    table = tmp_path / "out" / "seg-x_morph.tsv"
    table.write_text("\n".join(["image\tname\tvolume-mm3", *rows]) + "\n")
    return table


def test_pages_show_where_volumes_lie_in_the_group(summary, report, read_page, tmp_path):
    report("run1", summary("a", volume=9000.0))
    report("run1", summary("a", who="02"), who="sub-02")
    group_table(tmp_path, 9000, 2000, 2100, 1900, 2050, 1950)
    out = tmp_path / "out"
    pages = refresh_participants(output_dir=out, out_dir=out)
    assert [page.name for page in pages] == ["sub-01.html", "sub-02.html"]
    far, usual = map(read_page, pages)
    assert "1.90–2.10 (2.00)" in far.words
    assert "stem: 9.00 ml is far above the group's median of 2.00 ml" in far.words
    assert "the group's median" not in usual.words
    assert "polygon" in usual.source
    assert 'href="group.html"' in usual.source


def test_pages_neither_name_others_nor_grow_with_the_group(summary, report, read_page, tmp_path):
    report("run1", summary("a"))
    sizes = []
    for count in (20, 400):
        group_table(tmp_path, *[2000 + (n % 7) for n in range(count)])
        (page,) = refresh_participants(output_dir=tmp_path / "out", out_dir=tmp_path)
        assert "sub-02" not in read_page(page).source
        assert f"{count - 1} values from 2 to 2.006" in read_page(page).source
        sizes.append(len(read_page(page).source))
    assert abs(sizes[1] - sizes[0]) < 50


def test_tables_of_the_group_are_read_once_for_many_pages(summary, tmp_path, read_page):
    path = summary("a")
    table = group_table(tmp_path, *[2000] * 5)
    groups = read_groups(tmp_path / "out")
    table.unlink()
    page = report_participant(
        participant="sub-01",
        summaries=[path],
        output_dir=tmp_path / "out",
        run=run_of("run1"),
        out_file=tmp_path / "sub-01.html",
        groups=groups,
    )
    assert "2.00–2.00 (2.00)" in read_page(page).words


@pytest.mark.parametrize("content", [b"", b"participant_id\tage\n01\t30\n", b"\xff\xfe\x00"])
def test_a_table_of_the_group_that_is_none_costs_no_page(
    summary, report, read_page, tmp_path, caplog, content
):
    path = summary("a")
    group_table(tmp_path, *[2000] * 5)
    (tmp_path / "out" / "seg-other_morph.tsv").write_bytes(content)
    assert "in the group" in read_page(report("run1", path)).words
    assert "seg-other_morph.tsv" in caplog.text


@pytest.mark.parametrize(("others", "shown"), [(2, False), (3, True)])
def test_a_few_others_are_no_group(summary, report, read_page, tmp_path, others, shown):
    report("run1", summary("a"))
    group_table(tmp_path, *[2000] * (1 + others))
    (page,) = refresh_participants(output_dir=tmp_path / "out", out_dir=tmp_path)
    assert ("in the group" in read_page(page).words) == shown


def test_volumes_of_other_contrasts_are_no_group(summary, report, read_page, tmp_path):
    report("run1", summary("a"))
    table = group_table(tmp_path, 9000, 2000)
    table.write_text(table.read_text().replace("_T1w", "_T2w"))
    (page,) = refresh_participants(output_dir=tmp_path / "out", out_dir=tmp_path)
    assert "in the group" not in read_page(page).words


def test_the_page_of_the_group_gathers_remarks_and_failures(summary, report, read_page, tmp_path):
    report("run1", summary("a"), failures=[failure("c")])
    volumes = tmp_path / "volumes.tsv"
    volumes.write_text("name\tindex\tlabel\tvolume_mm3\nsub-01_ses-a_T1w\t4\tstem\t2000\n")
    dice = tmp_path / "dice.tsv"
    rows = [f"sub-0{n}_ses-a_T1w\tstem\t0.{n}" for n in (1, 2, 3)]
    dice.write_text("\n".join(["name\tlabel\tdice", *rows]) + "\n")
    page = read_page(
        report_group(
            volumes=volumes,
            dice=dice,
            out_file=tmp_path / "group.html",
            roles={f"sub-0{n}_ses-a_T1w": r for n, r in enumerate(("learn", "test", "test"), 1)},
            output_dir=tmp_path / "out",
            segmentation="x",
        )
    )
    assert "broken c" in page.words
    assert "odd a" in page.words
    assert 'href="sub-01.html#sub-01_ses-a_T1w"' in page.source
    # Those who were learned from are not averaged with those who were tested on
    assert "Mean Dice, tested (2 images) 0.250" in page.words
    assert "Mean Dice, learning (1 image) 0.100" in page.words
    other = report_group(
        volumes=volumes,
        out_file=tmp_path / "other.html",
        output_dir=tmp_path / "out",
        segmentation="y",
    )
    assert "odd a" not in read_page(other).words


def test_everyone_is_found(summary, report, tmp_path):
    report("run1", summary("a"))
    report("run1", summary("a", who="02"), who="sub-02")
    found = dict(everyone(tmp_path / "out"))
    assert list(found) == ["sub-01", "sub-02"]
    assert found["sub-02"].images[0]["run"] == "run1"
