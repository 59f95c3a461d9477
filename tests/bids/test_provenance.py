import getpass
import platform
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from l2s_pydra import __version__
from l2s_pydra.bids.derivatives import derivative_path
from l2s_pydra.bids.provenance import (
    new_run_id,
    run_record,
    scrub,
    scrub_text,
    sidecar,
    to_toml,
    versions,
)
from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import DatasetError
from l2s_pydra.steps.outputs import IMAGE_OUTPUTS

ENTITIES = {"subject": "01", "suffix": "T1w"}
SOURCE = "sub-01/anat/sub-01_T1w.nii.gz"
MODEL = {"name": "m1", "version": "0.1.0", "sha256": "ab" * 32}


@pytest.mark.parametrize("kind", ["dseg", "mask", "probseg"])
def test_sidecar_of_an_image(kind):
    values = sidecar(
        kind, source=SOURCE, entities=ENTITIES, model=MODEL, labels=["background", "x"]
    )
    assert values["Sources"] == [f"bids:raw:{SOURCE}", "bids:models:model-m1/weights.safetensors"]
    assert values["SpatialReference"] == f"bids:raw:{SOURCE}"
    assert (values["ModelName"], values["ModelSHA256"]) == ("m1", "ab" * 32)
    assert values["Manual"] is False
    assert "T1w" in values["Description"]
    assert values.get("LabelMap") == (["background", "x"] if kind == "probseg" else None)
    assert values.get("Type") == ("Brain" if kind == "mask" else None)


def test_sidecars_hold_the_checksum_of_the_image():
    for kind in ("dseg", "mask", "probseg", "entropy"):
        values = sidecar(
            kind, source=SOURCE, entities=ENTITIES, model=MODEL, source_sha256="cd" * 32
        )
        assert values["SourceSHA256"] == "cd" * 32


def test_record_has_times_container_and_theta():
    before = datetime.now(UTC).replace(microsecond=0)
    values = run_record(
        run=new_run_id(),
        command=["x"],
        settings={},
        model={**MODEL, "theta": {"noise": 0.5}},
        container={"Type": "docker", "Tag": "x:1"},
    )
    again = tomllib.loads(to_toml(values))
    began, ended = (datetime.fromisoformat(again["run"][key]) for key in ("started", "ended"))
    assert before <= began <= ended <= datetime.now(UTC)
    assert again["container"] == {"Type": "docker", "Tag": "x:1"}
    assert again["model"]["theta"] == {"noise": 0.5}


def test_sidecar_of_volumes():
    row = IMAGE_OUTPUTS["dseg"]
    dseg = str(derivative_path(ENTITIES, row, segmentation="x"))
    values = sidecar("morph", source=SOURCE, entities=ENTITIES, model=MODEL, dseg=dseg)
    assert values["Sources"] == ["bids::sub-01/anat/sub-01_seg-x_desc-T1w_dseg.nii.gz"]
    assert values["volume-mm3"]["Units"] == "mm^3"


def test_every_sidecar_of_the_table_is_known():
    for row in IMAGE_OUTPUTS.values():
        if row.sidecar:
            assert sidecar(row.sidecar, source=SOURCE, entities=ENTITIES, model=MODEL)
    with pytest.raises(DatasetError, match="sidecar 'x' is unknown"):
        sidecar("x", source=SOURCE, entities=ENTITIES, model=MODEL)


def test_res_needs_a_resolution():
    values = sidecar("dseg", source=SOURCE, entities={**ENTITIES, "res": "2"}, model=MODEL)
    assert "Resolution" in values


def test_versions():
    found = versions()
    assert found["l2s_pydra"] == __version__
    assert found["python"] == platform.python_version()
    assert set(found) >= {"torch", "pydra", "nipype", "pybids"}
    assert "not installed" not in found.values()


def without_none(values):
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def test_record_survives_toml():
    settings = {
        # TOML has no null: what is None is left out.
        "learn": without_none(LearnConfig().to_dict()),
        "suffixes": ["T1w", "T2w"],
        "odd key.\x7f": 'quote " backslash \\ newline \n tab \t bell \x07 ü 😀',
        "numbers": {"tiny": 1e-30, "huge": 1e300, "inf": float("inf"), "n": -3, "yes": True},
        "nested": [{"a": 1, "b": [1.5, "x"]}, {}],
        "empty": {},
    }
    record = run_record(
        run=new_run_id(), command=["/x/l2s-pydra"], settings=settings, seed=7, model=MODEL
    )
    read = tomllib.loads(to_toml(record))
    settings["learn"]["synthesis"] |= {
        key: list(value)
        for key, value in settings["learn"]["synthesis"].items()
        if isinstance(value, tuple)
    }
    assert read["settings"] == settings
    assert read["run"]["seed"] == 7
    assert read["model"] == MODEL
    assert read["software"] == versions()
    assert read["command"]["line"] == ["l2s-pydra"]


def test_toml_leaves_none_out_and_survives_bytes_that_are_no_text():
    text = to_toml(
        {"a": None, "b": {"c": None, "d": [None, 1]}, "e": b"\xff".decode(errors="surrogateescape")}
    )
    assert tomllib.loads(text) == {"b": {"d": [1]}, "e": "?"}
    text.encode("utf-8")


def test_run_ids_differ():
    assert new_run_id() != new_run_id()


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("/data/ds", "<bids_dir>"),
        ("/data/ds/sub-01/x", "<bids_dir>/sub-01/x"),
        ("/data/ds/derivatives/out/y", "<output_dir>/y"),
        ("/data/dsx", "dsx"),
        ("--work-dir=/home/someone/work", "--work-dir=work"),
        ("synthesis.priors=@/home/someone/p.json", "synthesis.priors=@p.json"),
        ("../../home/someone/ds", "ds"),
        ("--model=~someone/models/m", "--model=m"),
        ("~someone", "~"),
        ("~/m", "~/m"),
        (Path("/somewhere/else.json"), "else.json"),
        ("relative/file", "relative/file"),
        ("participant", "participant"),
        ("--device", "--device"),
        ({"path": ["/a/b", 3, None, True]}, {"path": ["b", 3, None, True]}),
    ],
)
def test_scrub(value, clean):
    places = {"bids_dir": "/data/ds", "output_dir": Path("/data/ds/derivatives/out")}
    assert scrub(value, places) == clean


def test_record_names_no_person_and_no_computer():
    home = Path.home()
    record = run_record(
        run=new_run_id(),
        command=[str(home / "bin/l2s-pydra"), str(home / "ds"), f"--model={home / 'm'}"],
        settings={"work_dir": home / "work", "model": str(home / "m")},
    )
    text = to_toml(record)
    assert str(home) not in text
    assert platform.node() not in text
    assert f"/{getpass.getuser()}/" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no path, 3/4 of it", "no path, 3/4 of it"),
        ("https://x.y/z and /usr/lib/a/b.so: bad", "https://x.y/z and b.so: bad"),
        ('File "/usr/lib/python3/dist-packages/a/b c.py", line 3', 'File "a/b c.py", line 3'),
        ("('/usr/local/my models/m/config.json')", "('config.json')"),
        ("/data/ds/sub-01/x.nii: y", "<bids_dir>/sub-01/x.nii: y"),
        ("/data/ds2/sub-01", "/data/ds2/sub-01"),  # no folder of this computer
        ("/home/x y/out/sub-01 is full", "<output_dir>/sub-01 is full"),
    ],
)
def test_texts_tell_no_folders(text, expected):
    places = {"bids_dir": "/data/ds", "output_dir": "/home/x y/out"}
    assert scrub_text(text, places) == expected
