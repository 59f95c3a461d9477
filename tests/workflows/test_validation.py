"""The BIDS validator, where it is installed and where it is not."""

import subprocess

import pytest

from l2s_pydra.workflows import validation
from l2s_pydra.workflows.validation import InvalidBidsError, validate


def test_a_valid_data_set_passes(phantom, caplog):
    with caplog.at_level("INFO"):
        validate(phantom)
    assert f"validating {phantom}" in caplog.text
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_an_error_names_the_file_and_the_way_out(data):
    (data / "sub-04" / "anat" / "sub-04_T1x.nii.gz").write_bytes(b"")
    with pytest.raises(InvalidBidsError, match=r"sub-04_T1x\.nii\.gz.*--skip-bids-validation"):
        validate(data)


def test_without_a_validator_the_run_goes_on(phantom, monkeypatch, caplog):
    monkeypatch.setattr(validation.shutil, "which", lambda *_, **__: None)
    with caplog.at_level("INFO", logger="l2s_pydra"), caplog.at_level("INFO"):
        validate(phantom)
    assert "not installed" in caplog.text


def test_a_validator_that_does_not_work_stops_nothing(phantom, monkeypatch, caplog):
    done = subprocess.CompletedProcess([], 1, stdout="", stderr="no network")
    monkeypatch.setattr(validation.subprocess, "run", lambda *_, **__: done)
    validate(phantom)
    assert "no network" in caplog.text
