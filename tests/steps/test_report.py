import json

import pytest

from l2s_pydra.errors import DatasetError
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.steps.report import report_group, report_participant


@pytest.fixture
def summary(tmp_path):
    values = {
        "image": "sub-01_T1w.nii.gz",
        "source": "sub-01/anat/sub-01_T1w.nii.gz",
        "entities": {"subject": "01", "suffix": "T1w"},
        "dseg": "sub-01/anat/sub-01_desc-T1w_dseg.nii.gz",
        "figure": "sub-01/figures/sub-01_desc-T1w_dseg.png",
        "volumes": [{"index": 4, "name": "stem", "volume_mm3": 2000.0}],
        "warnings": ["look here"],
        "model": {"name": "m1", "sha256": "ff", "version": "0.1.0"},
        "seconds": 1.0,
        "shape": [4, 4, 4],
        "spacing_mm": [1.0, 1.0, 1.0],
    }
    path = tmp_path / "work" / "summary.json"
    path.parent.mkdir()
    path.write_text(json.dumps(values))
    return path


def test_participant_report_takes_colors_and_model_page_from_the_derivative(tmp_path, summary):
    root = tmp_path / "out"
    (root / "sub-01" / "anat").mkdir(parents=True)
    (root / "models" / "model-m1").mkdir(parents=True)
    (root / "models" / "model-m1" / "report.html").touch()
    LabelScheme([Label(index=4, name="stem", color="#123456")]).write(
        root / "sub-01/anat/sub-01_desc-T1w_dseg.tsv"
    )
    page = report_participant(
        participant="sub-01",
        summaries=[summary],
        output_dir=root,
        run={},
        out_file=tmp_path / "stage" / "sub-01.html",
    )
    text = page.read_text()
    assert "--c: #123456" in text
    assert 'href="models/model-m1/report.html"' in text
    assert "look here" in text


def test_participant_report_without_the_derivative(tmp_path, summary):
    page = report_participant(
        participant="sub-01",
        summaries=[summary],
        output_dir=tmp_path / "out",
        run={},
        failures=[{"name": "x", "file": "x.nii", "reason": "bad", "log": "", "participant": "1"}],
        out_file=tmp_path / "sub-01.html",
    )
    assert "1 image failed" in page.read_text()


@pytest.mark.parametrize("content", [b"index\tname\nx\tstem\n", b"\xff", b""])
def test_a_damaged_label_table_costs_the_colours_only(tmp_path, summary, content, caplog):
    table = tmp_path / "out" / "sub-01/anat/sub-01_desc-T1w_dseg.tsv"
    table.parent.mkdir(parents=True)
    table.write_bytes(content)
    page = report_participant(
        participant="sub-01",
        summaries=[summary],
        output_dir=tmp_path / "out",
        run={},
        out_file=tmp_path / "sub-01.html",
    )
    assert "look here" in page.read_text()
    assert "no colours of the figure" in caplog.text


def test_broken_summary_is_named(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("{}")
    with pytest.raises(DatasetError, match=r"summary\.json: is no summary.*segment the image"):
        report_participant(
            participant="sub-01",
            summaries=[path],
            output_dir=tmp_path,
            run={},
            out_file=tmp_path / "a.html",
        )


def test_group_report_reads_the_tables(tmp_path):
    volumes, dice = tmp_path / "morph.tsv", tmp_path / "dice.tsv"
    volumes.write_text(
        "name\tindex\tlabel\tvolume_mm3\nsub-01_T1w\t4\tstem\t2000\nsub-02_T1w\t4\tstem\t4000\n"
    )
    dice.write_text(
        "name\tindex\tlabel\tdice\nsub-01_T1w\t4\tstem\t0.9\nsub-02_T1w\t4\tstem\tn/a\n"
    )
    text = report_group(volumes=volumes, dice=dice, out_file=tmp_path / "group.html").read_text()
    assert "3.00 ± 1.41" in text
    assert "Mean Dice, role not known (1 image)" in text
    assert 'href="sub-02.html#sub-02_T1w"' in text
    volumes.write_text("name\tlabel\n")
    with pytest.raises(DatasetError, match=r"morph\.tsv: table lacks the column 'volume_mm3'"):
        report_group(volumes=volumes, out_file=tmp_path / "group.html")
