"""Pydra's own workers through the application: the same files as by the worker of ours."""

import re
import shutil

import pytest

OF_A_RUN = re.compile(r"(^|/)log/|\.html$")
PARTICIPANTS = ("02", "03")


def files_of(output):
    """Contents of the files of participants but those that tell of one run: logs and pages."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for participant in PARTICIPANTS
        for path in (output / f"sub-{participant}").rglob("*")
        if path.is_file() and not OF_A_RUN.search(path.relative_to(output).as_posix())
    }


@pytest.mark.parametrize("worker", ["cf", "debug"])
def test_pydras_workers_give_the_same(app, finished, phantom, tmp_path, worker):
    output = tmp_path / "l2s_pydra"
    shutil.copytree(finished.output / "models", output / "models")
    run = app(
        *(phantom, output, tmp_path / "work", "participant", "--skip-bids-validation"),
        *("--participant-label", *PARTICIPANTS, "--worker", worker),
    )
    assert run.code == 0, run.said
    ours, theirs = files_of(finished.output), files_of(output)
    assert sum(name.endswith("_dseg.nii.gz") for name in ours) == len(PARTICIPANTS)
    assert set(theirs) == set(ours)
    assert [name for name in ours if ours[name] != theirs[name]] == []
