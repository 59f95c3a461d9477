"""Runs after a run: by content, told image by image."""

import csv
import os
import shutil
import tomllib

from l2s_pydra.bids.manifest import Manifest
from l2s_pydra.bids.verifying import verify
from l2s_pydra.workflows.cli import main

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
