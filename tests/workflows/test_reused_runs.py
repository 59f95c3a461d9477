"""Runs after a run: by content, told image by image."""

import csv
import os
import shutil
import tomllib

import pytest

from l2s_pydra.bids.checksums import sha256_of
from l2s_pydra.bids.manifest import Manifest
from l2s_pydra.bids.verifying import verify
from l2s_pydra.jsonfiles import read_json
from l2s_pydra.workflows.cli import main
from l2s_pydra.workflows.worker import L2SWorker

ONE = "sub-04/anat/sub-04_T1w.nii.gz"
QUICK = ("--skip-bids-validation", "--participant-label", "03", "04")


def latest(folder, name):
    """Contents of a record of the last run."""
    *_, path = sorted(folder.glob(f"*/{name}"))
    return path.read_text(encoding="utf-8")


def test_a_changed_image_and_force(copied, data, app, tmp_path):
    """The image has another byte, and the size and time it had; the working directory is gone."""
    shutil.rmtree(copied.work)
    image = data / ONE
    before = image.stat()
    content = bytearray(image.read_bytes())
    content[5] ^= 1  # in the time of compression, which no voxel depends on
    image.write_bytes(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    run = app(data, copied.output, copied.work, "participant", *QUICK)
    assert run.code == 0, run.said
    assert "2 image(s): 1 done, 0 restored, 1 reused, 0 failed, 0 skipped" in run.said
    rows = list(
        csv.DictReader(
            latest(copied.output / "logs", "images.tsv").splitlines(), dialect="excel-tab"
        )
    )
    assert [(row["image"], row["status"], row["reason"]) for row in rows] == [
        ("sub-03/anat/sub-03_T1w.nii.gz", "reused", "nothing changed"),
        (ONE, "done", "the image changed"),
    ]
    assert float(rows[1]["seconds"]) > 0
    record = tomllib.loads(latest(copied.output / "sub-04" / "log", "l2s_pydra.toml"))
    assert record["images"][ONE]["status"] == "done"
    log = latest(copied.output / "sub-04" / "log", "l2s_pydra.log")
    assert f"{ONE}: done" in log
    assert str(data) not in log
    assert not list((copied.output / "sub-03" / "log").glob(f"{record['run']['id']}"))
    found = verify(copied.output, data)
    assert found.is_good, found
    assert found.extra == ()

    forced = app(data, copied.output, tmp_path / "other", "participant", *QUICK, "--force")
    assert forced.code == 0, forced.said
    assert "2 image(s): 2 done, 0 restored, 0 reused, 0 failed, 0 skipped" in forced.said
    manifest = Manifest.read(copied.output / "sub-03" / "log" / "manifest.json")
    (entry,) = manifest.images.values()
    # What was made anew is the same to the bit: the label map still names the run that wrote it.
    (dseg,) = (name for name in entry.outputs if name.endswith("_dseg.nii.gz"))
    assert entry.run > manifest.files[dseg].run


def test_verify_from_the_command_line(copied, phantom, capsys):
    assert main(["--verify", str(copied.output)]) == 0
    assert "all are as they were written" in capsys.readouterr().out
    (copied.output / "README.md").write_text("altered")
    assert main(["--verify", str(phantom), str(copied.output)]) == 1
    said = capsys.readouterr().out
    assert "altered: README.md" in said
    assert "5 images were segmented: all are what they were then" in said
    assert main(["--verify", str(copied.work)]) != 0
    assert "holds no manifest" in capsys.readouterr().err


@pytest.mark.parametrize("seen", [True, False], ids=["new time", "old time"])
def test_what_a_file_held_for_a_moment(data, model, tmp_path, monkeypatch, command_line, seen):
    """An image is another one while it is segmented, then what it was: that result is not its own."""
    image, out = data / ONE, tmp_path / "out"
    content, before = image.read_bytes(), image.stat()
    arguments = ("participant", "--skip-bids-validation", "--participant-label", "04")
    line = command_line(data, out, tmp_path / "work", *arguments, "--model", str(model))
    run = L2SWorker._run_in_process

    async def run_on_another(self, *details):
        image.write_bytes((data / "sub-03/anat/sub-03_T1w.nii.gz").read_bytes())
        if not seen:
            os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
        await run(self, *details)

    with monkeypatch.context() as patch:
        patch.setattr(L2SWorker, "_run_in_process", run_on_another)
        assert main(line) == 1
    (crash,) = out.glob("sub-04/log/*/crash-*.txt")
    assert "was changed while it was segmented; run again" in crash.read_text()
    image.write_bytes(content)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert main(line) == 0
    assert "\tdone\t" in latest(out / "logs", "images.tsv")
    (sidecar,) = out.rglob("*_dseg.json")
    assert read_json(sidecar)["SourceSHA256"] == sha256_of(image)


def test_a_result_that_was_tidied_in_part_is_not_restored(phantom, app, model, tmp_path):
    """As on a scratch disk where old files are deleted one by one."""
    out, work = tmp_path / "out", tmp_path / "work"
    line = (phantom, out, work, "participant", *QUICK, "--model", str(model))
    assert app(*line).code == 0
    gone = [*out.glob("sub-03/*/*_dseg.png"), *out.glob("sub-04/anat/*_mask.json")]
    assert len(gone) == 2
    shutil.rmtree(out)
    for place in gone:
        (cached,) = work.glob(f"pydra/*/tree/**/{place.name}")
        cached.unlink()
    run = app(*line)
    assert run.code == 0, run.said
    assert "2 image(s): 2 done, 0 restored" in run.said
    assert all(place.is_file() for place in gone)


def test_two_runs_that_do_all_again_at_once(start, phantom, tmp_path, model):
    """Neither takes away what the other is making."""
    out, work = tmp_path / "out", tmp_path / "work"
    arguments = ("participant", *QUICK, "--model", str(model), "--force")
    runs = [start(phantom, out, work, *arguments) for _ in range(2)]
    for process in runs:
        said = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=60) == 0, said
        assert "2 image(s): 2 done" in said
    assert verify(out, phantom).is_good
    assert not list(work.glob("forced/*"))
