"""Files appear whole in the output folder, are recorded, and other runs may write there too."""

import errno
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from l2s_pydra.bids import publishing
from l2s_pydra.bids.checksums import sha256_of
from l2s_pydra.bids.derivatives import write_json, write_text
from l2s_pydra.bids.manifest import ImageEntry, Manifest, manifests
from l2s_pydra.bids.publishing import HIDDEN, OutputFolder
from l2s_pydra.errors import DatasetError, InUseError, OutputError

SPAWN = multiprocessing.get_context("spawn")


def publish(stage, output, run="r", **options):
    """Publish as a run of its own."""
    if not options:
        return publishing.publish(stage, output, run=run)
    with OutputFolder.open(output, run) as folder:
        return folder.publish(stage, **options)


def names(folder):
    """What is in a folder, but for our own records."""
    return sorted({path.name for path in folder.iterdir()} - {HIDDEN, "logs"})


@pytest.fixture
def stage(tmp_path):
    root = tmp_path / "stage"
    write_text(root / "sub-01" / "anat" / "a.txt", "one")
    write_text(root / ".bidsignore", "*.html\n")
    write_json(root / "b.json", {"ä": [1]})
    return root


def test_publish_and_publish_again(stage, tmp_path):
    output = tmp_path / "out"
    first = publish(stage, output)
    assert [path.relative_to(output).as_posix() for path in first.written] == [
        ".bidsignore",
        "b.json",
        "sub-01/anat/a.txt",
    ]
    assert first.unchanged == ()
    before = {path: path.stat().st_mtime_ns for path in (*first.written, *logs(output))}
    second = publish(stage, output, run="r2")
    assert second.written == ()
    assert second.unchanged == first.written
    assert {path: path.stat().st_mtime_ns for path in before} == before


def logs(output):
    return [output / path for path in manifests(output)]


def test_everything_is_recorded(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output)
    assert list(manifests(output)) == ["logs/manifest.json", "sub-01/log/manifest.json"]
    recorded = {}
    for path in logs(output):
        recorded |= Manifest.read(path).files
    assert set(recorded) == {".bidsignore", "b.json", "sub-01/anat/a.txt"}
    for name, entry in recorded.items():
        assert entry.sha256 == sha256_of(output / name)
        assert entry.size == (output / name).stat().st_size
        assert entry.run == "r"


def image(run="r", **changes):
    values = {
        "source": "sub-01/anat/sub-01_T1w.nii.gz",
        "segmentation": "x",
        "run": run,
        "made_from": {"image": "aa"},
        "outputs": ["sub-01/anat/a.txt"],
    }
    return ImageEntry(**(values | changes))


def test_a_run_is_named_where_it_wrote_and_not_where_it_found(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output, images=[image()])
    write_text(stage / "b.json", "new")
    publish(stage, output, run="r2", images=[image("r2")])
    participant = Manifest.read(output / "sub-01" / "log" / "manifest.json")
    assert participant.files["sub-01/anat/a.txt"].run == "r"
    assert participant.images[image().name].run == "r"
    assert Manifest.read(output / "logs" / "manifest.json").files["b.json"].run == "r2"
    publish(stage, output, run="r3", images=[image("r3", made_from={"image": "bb"})])
    participant = Manifest.read(output / "sub-01" / "log" / "manifest.json")
    assert participant.images[image().name].run == "r3"


def test_of_several_trees_the_later_counts(stage, tmp_path):
    other = tmp_path / "other"
    write_text(other / "b.json", "other")
    with OutputFolder.open(tmp_path / "out", "r") as folder:
        folder.publish(stage, other)
    assert (tmp_path / "out" / "b.json").read_text() == "other"
    assert (tmp_path / "out" / ".bidsignore").read_text() == "*.html\n"


def test_publish_restores_what_was_deleted_and_replaces_what_changed(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output)
    (output / "b.json").unlink()
    shutil.rmtree(output / "sub-01")
    (output / ".bidsignore").write_text("*.HTML\n")
    (output / "of-others.txt").write_text("stays")
    assert len(publish(stage, output).written) == 3
    assert (output / "sub-01" / "anat" / "a.txt").read_text() == "one"
    assert (output / ".bidsignore").read_text() == "*.html\n"
    assert (output / "of-others.txt").read_text() == "stays"


def test_same_size_other_content_is_seen(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output)
    target, source = output / "sub-01/anat/a.txt", stage / "sub-01/anat/a.txt"
    source.write_text("two")
    os.utime(source, ns=(target.stat().st_atime_ns, target.stat().st_mtime_ns))
    publish(stage, output)
    assert target.read_text() == "two"


def test_a_reader_sees_the_old_or_the_new_file(tmp_path):
    stage, output = tmp_path / "stage", tmp_path / "out"
    versions = [letter * 1_000_000 for letter in "ab"]
    target = write_text(output / "x", versions[0])
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(target.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        write_text(stage / "x", versions[(turn + 1) % 2])
        publish(stage, output)
    done.set()
    reader.join()
    assert seen <= set(versions)
    assert names(output) == ["x"]
    assert [path.name for path in (output / HIDDEN).iterdir()] == ["lock"]


def test_a_failed_copy_leaves_all_old_files_and_nothing_else(stage, tmp_path, monkeypatch):
    output = tmp_path / "out"
    publish(stage, output)
    for name in (".bidsignore", "b.json"):
        write_text(stage / name, "new")
    before = {path: path.read_text() for path in output.rglob("*.*") if path.is_file()}
    real = shutil.copyfile

    def half(source, target):
        if source.name != "b.json":
            return real(source, target)
        target.write_text("n")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OutputError, match=r"b\.json: cannot be written \(No space left"):
        publish(stage, output)
    assert {path: path.read_text() for path in output.rglob("*.*") if path.is_file()} == before
    assert [path.name for path in (output / HIDDEN).iterdir()] == ["lock"]


@pytest.mark.parametrize("fails", ["copyfile", "_move"])
def test_what_could_not_be_published_does_not_fill_the_disk(stage, tmp_path, monkeypatch, fails):
    """A run goes on with other images after that."""
    module = shutil if fails == "copyfile" else publishing
    real = getattr(module, fails)

    def full(source, target):
        if "a.txt" in (source.name, target.name):
            (source if fails == "_move" else target).write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target)

    monkeypatch.setattr(module, fails, full)
    with OutputFolder.open(tmp_path / "out", "r") as folder:
        with pytest.raises(OutputError, match="No space left"):
            folder.publish(stage)
        assert [path.name for path in (tmp_path / "out" / HIDDEN / "r").iterdir()] == ["alive"]


def test_a_manifest_that_cannot_be_read_now_is_not_begun_anew(stage, tmp_path, monkeypatch):
    output = tmp_path / "out"
    publish(stage, output)
    place = output / "sub-01" / "log" / "manifest.json"
    before = place.read_text()
    write_text(stage / "sub-01" / "anat" / "b.txt", "two")
    read = Path.read_text

    def broken(self, *args, **options):
        if self == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", broken)
        with pytest.raises(DatasetError, match=r"manifest\.json: cannot be read"):
            publish(stage, output)
        with (
            pytest.raises(DatasetError, match="cannot be read"),
            OutputFolder.open(output, "r2") as folder,
        ):
            folder.remove([output / "sub-01" / "anat" / "a.txt"])
    assert place.read_text() == before
    publish(stage, output)
    assert set(Manifest.read(place).files) == {"sub-01/anat/a.txt", "sub-01/anat/b.txt"}


def test_a_link_in_the_output_is_replaced_not_followed(stage, tmp_path):
    # As in a DataLad data set, where the target is the protected copy of an earlier version.
    output = tmp_path / "out"
    publish(stage, output)
    kept = write_text(tmp_path / "store", "protected")
    (output / "b.json").unlink()
    (output / "b.json").symlink_to(kept)
    publish(stage, output)
    assert not (output / "b.json").is_symlink()
    assert kept.read_text() == "protected"


def test_files_get_the_usual_permissions(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output)
    (tmp_path / "usual").touch()
    assert (output / "b.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_nothing_staged(tmp_path):
    with pytest.raises(DatasetError, match="nothing to publish"):
        publish(tmp_path / "nowhere", tmp_path / "out")


def test_a_file_where_a_folder_should_be(stage, tmp_path):
    output = tmp_path / "out"
    write_text(output / "sub-01", "in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        publish(stage, output)


def test_no_folder_to_write_to(tmp_path):
    write_text(tmp_path / "out", "a file")
    with (
        pytest.raises(OutputError, match="cannot be written"),
        OutputFolder.open(tmp_path / "out", "r"),
    ):
        pass


def die_before_recording(stage, output):
    Manifest.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    publish(stage, output, run="killed", images=[image("killed", made_from={"image": "bb"})])


def test_a_run_that_was_killed_before_it_recorded_is_not_taken_for_done(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output, images=[image()])
    write_text(stage / "sub-01" / "anat" / "a.txt", "new")
    killed = SPAWN.Process(target=die_before_recording, args=(stage, output))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    manifest = Manifest.read(output / "sub-01" / "log" / "manifest.json")
    assert (output / "sub-01" / "anat" / "a.txt").read_text() == "new"
    assert manifest.files["sub-01/anat/a.txt"].sha256 != sha256_of(output / "sub-01/anat/a.txt")
    # What it left is tidied up, and what a living run has there stays.
    assert (output / HIDDEN / "killed").is_dir()
    with OutputFolder.open(output, "living"):
        assert not (output / HIDDEN / "killed").exists()
        with OutputFolder.open(output, "next"):
            assert (output / HIDDEN / "living").is_dir()


def test_what_is_removed_is_forgotten(stage, tmp_path):
    output = tmp_path / "out"
    publish(stage, output)
    (output / "b.json").unlink()
    with OutputFolder.open(output, "r2") as folder:
        folder.remove([output / "b.json", output / "sub-01" / "anat" / "a.txt", output / "other"])
    assert not (output / "sub-01" / "anat" / "a.txt").exists()
    assert [set(Manifest.read(path).files) for path in logs(output)] == [{".bidsignore"}, set()]


def add(output, number, turns):
    """Count in a shared file, and publish files of one's own, as one of many runs."""
    with OutputFolder.open(output, f"r{number}") as folder:
        for turn in range(turns):
            stage = output.with_name(f"stage-{number}-{turn}")
            write_text(stage / f"sub-{number:02d}" / f"{turn}", f"{turn}")
            write_text(stage / "sub-99" / "two", f"{number} " * 5000)
            ready = folder.prepare(stage)
            with folder.locked():
                shared = output / "descriptions.tsv"
                before = shared.read_text() if shared.exists() else ""
                mine = stage.with_name(f"{stage.name}-shared")
                write_text(mine / "descriptions.tsv", f"{before}{number} {turn}\n")
                folder.publish(mine)
            folder.commit(ready)


def test_runs_at_the_same_time_lose_nothing(tmp_path):
    output, turns = tmp_path / "out", 8
    runs = [SPAWN.Process(target=add, args=(output, n, turns)) for n in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
        assert run.exitcode == 0
    expected = sorted(f"{n} {turn}" for n in range(3) for turn in range(turns))
    assert sorted((output / "descriptions.tsv").read_text().splitlines()) == expected
    for path in logs(output):
        for name, entry in Manifest.read(path).files.items():
            assert sha256_of(output / name) == entry.sha256, name
    assert len(list(output.glob("sub-0*/?"))) == 3 * turns
    assert [path.name for path in (output / HIDDEN).iterdir()] == ["lock"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_where_the_file_system_has_no_locks(stage, tmp_path, monkeypatch, caplog, code):
    def no_locks(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    output = tmp_path / "out"
    with OutputFolder.open(output, "r") as folder, folder.locked():
        assert (output / HIDDEN / "lock.soft").exists()
        folder.publish(stage)
    assert "the file system knows no locks" in caplog.text
    assert not (output / HIDDEN / "lock.soft").exists()
    assert names(output) == [".bidsignore", "b.json", "sub-01"]


def test_a_lock_that_is_never_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "_WAIT_S", 0.2)
    with (
        OutputFolder.open(tmp_path / "out", "r") as folder,
        folder.locked(),
        pytest.raises(InUseError, match="another run has held this lock"),
        OutputFolder.open(tmp_path / "out", "r2"),
    ):
        pass


def test_on_another_file_system_below(stage, tmp_path, monkeypatch):
    real = type(tmp_path).replace

    def replace(self, target):
        if HIDDEN in self.parts:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    publish(stage, tmp_path / "out")
    assert (tmp_path / "out" / "sub-01" / "anat" / "a.txt").read_text() == "one"
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_nothing_is_written_through_a_folder_that_leads_out(tmp_path):
    stage, root, outside = tmp_path / "stage", tmp_path / "out", tmp_path / "outside"
    (stage / "sub-01" / "anat").mkdir(parents=True)
    (stage / "sub-01" / "anat" / "a.txt").write_text("new")
    for name in ("sub-01", "sub-01/anat", "sub-01/log"):
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(outside, ignore_errors=True)
        (outside / "anat").mkdir(parents=True)
        (outside / "a.txt").write_text("theirs")
        (root / name).parent.mkdir(parents=True)
        (root / name).symlink_to(outside)
        with pytest.raises(OutputError, match="leads out of"):
            publish(stage, root)
        found = sorted(p.relative_to(outside).as_posix() for p in outside.rglob("*"))
        assert found == ["a.txt", "anat"]
        with OutputFolder.open(root, "r2") as folder, pytest.raises(OutputError, match="leads out"):
            folder.remove([root / name / "a.txt"])
        assert (outside / "a.txt").read_text() == "theirs"


def test_the_hidden_folder_may_not_lead_out(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / HIDDEN).symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match="leads out of"), OutputFolder.open(tmp_path / "out", "r"):
        pass
    assert list((tmp_path / "outside").iterdir()) == []


def test_links_within_the_derivative_and_to_it_are_followed(tmp_path):
    (tmp_path / "stage" / "sub-01").mkdir(parents=True)
    (tmp_path / "stage" / "sub-01" / "a.txt").write_text("new")
    (tmp_path / "real" / "store").mkdir(parents=True)
    (tmp_path / "real" / "sub-01").symlink_to("store")
    (tmp_path / "out").symlink_to("real")
    publish(tmp_path / "stage", tmp_path / "out")
    assert (tmp_path / "real" / "store" / "a.txt").read_text() == "new"


def test_a_file_that_is_a_link_is_replaced_and_not_followed(tmp_path):
    """As in a data set of DataLad, whose files are links into its annex."""
    annex = tmp_path / "annex"
    annex.mkdir()
    (tmp_path / "stage").mkdir()
    (tmp_path / "out").mkdir()
    for name, theirs in (("a.txt", "old"), ("b.txt", "same")):
        (tmp_path / "stage" / name).write_text("new" if name == "a.txt" else "same")
        (annex / name).write_text(theirs)
        (annex / name).chmod(0o444)
        (tmp_path / "out" / name).symlink_to(annex / name)
    (tmp_path / "stage" / "c.txt").write_text("new")
    (tmp_path / "out" / "c.txt").symlink_to(annex / "not-here")
    publish(tmp_path / "stage", tmp_path / "out")
    assert (annex / "a.txt").read_text() == "old"
    assert not (tmp_path / "out" / "a.txt").is_symlink()
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    assert (tmp_path / "out" / "b.txt").is_symlink()  # nothing to change
    assert (tmp_path / "out" / "c.txt").read_text() == "new"
    assert sorted(path.name for path in annex.iterdir()) == ["a.txt", "b.txt"]
