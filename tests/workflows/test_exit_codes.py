"""Every exit code is provoked as a user would meet it."""

import fcntl
import resource
import subprocess
import sys

import pytest

from l2s_pydra.workflows.exit_codes import MEANINGS, ExitCode

CLI = (sys.executable, "-m", "l2s_pydra.workflows.cli")
FAULT = (
    "import sys; from l2s_pydra.workflows import cli, segmenting;"
    "segmenting.participant = lambda *_: {}['a fault'];"
    "sys.exit(cli.main(sys.argv[1:]))"
)


def run(*line, environment=None, **options):
    return subprocess.run(
        [str(word) for word in line],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **options,
    )


@pytest.fixture
def provoke(data, copied, model, tmp_path, environment):
    """Functions that end a run with each code; all segment from a finished run."""
    common = ("-w", copied.work, "--skip-bids-validation", "--model", model)
    common += ("--nprocs", "1", "--omp-nthreads", "1")

    def participant(*more, output=copied.output, program=CLI, **options):
        line = (*program, data, output, "participant", *common, *more)
        return run(*line, environment=environment, cwd=copied.work, **options)

    def failed():
        image = data / "sub-04" / "anat" / "sub-04_T1w.nii.gz"
        image.write_bytes(image.read_bytes()[:999])
        return participant("--participant-label", "04")

    def invalid():
        (data / "sub-04" / "anat" / "sub-04_T1x.nii.gz").write_bytes(b"")
        line = (*CLI, data, copied.output, "participant", "-w", copied.work, "--model", model)
        return run(*line, environment=environment)

    def disk_full():
        limit = (resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        return participant(
            "--participant-label", "04", preexec_fn=lambda: resource.setrlimit(*limit)
        )

    def in_use():
        with (copied.work / ".in_use").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            return participant("--clean-workdir")

    (tmp_path / "file").touch()
    return {
        ExitCode.OK: lambda: run(*CLI, "--version"),
        ExitCode.FAILED: failed,
        ExitCode.INVALID_BIDS: invalid,
        ExitCode.UNKNOWN_LEVEL: lambda: run(*CLI, data, tmp_path / "o", "subject"),
        ExitCode.NO_IMAGE: lambda: participant("--modality", "FLAIR"),
        ExitCode.USAGE: lambda: participant("--colour"),
        ExitCode.DATA: lambda: participant("--participant-label", "99"),
        ExitCode.NO_INPUT: lambda: run(*CLI, tmp_path / "nothing", tmp_path / "o", "participant"),
        ExitCode.SOFTWARE: lambda: participant(program=(sys.executable, "-c", FAULT)),
        ExitCode.CANNOT_CREATE: lambda: participant(output=tmp_path / "file" / "out"),
        ExitCode.IO: disk_full,
        ExitCode.TEMPORARY: in_use,
    }


SAID = {
    ExitCode.OK: "",
    ExitCode.FAILED: "sub-04_T1w.nii.gz",
    ExitCode.INVALID_BIDS: "is not valid BIDS",
    ExitCode.UNKNOWN_LEVEL: "unknown level 'subject'",
    ExitCode.NO_IMAGE: "no FLAIR image",
    ExitCode.USAGE: "unknown option --colour",
    ExitCode.DATA: "no participant 99",
    ExitCode.NO_INPUT: "nothing: no such folder",
    ExitCode.SOFTWARE: "KeyError: 'a fault'",
    ExitCode.CANNOT_CREATE: "cannot be made",
    ExitCode.IO: "File too large",
    ExitCode.TEMPORARY: "another run is using it",
}


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: str(code.value))
def test_codes_are_what_they_mean(provoke, code):
    done = provoke[code]()
    assert done.returncode == code, done.stderr
    assert SAID[code] in done.stderr
    assert "Traceback" not in done.stderr


def test_every_code_has_a_meaning():
    assert set(MEANINGS) == set(ExitCode)
