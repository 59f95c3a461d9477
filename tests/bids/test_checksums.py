"""Checksums that are remembered: never too long."""

import hashlib
import os
import time

import pytest

from l2s_pydra.bids.checksums import Checksums, clock_skew, sha256_of


@pytest.fixture
def now(monkeypatch):
    """Pretend that some seconds passed; files keep the times they have."""

    def now(seconds):
        real = time.time_ns()
        monkeypatch.setattr(time, "time", lambda: real / 1e9 + seconds)

    return now


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ein bild ä.nii.gz"
    path.write_bytes(b"one")
    return path


def sha(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once(file, tmp_path, now):
    now(60)
    for hashed in (1, 0):
        with Checksums.open(tmp_path / "work") as checksums:
            assert checksums.of(file) == sha(b"one") == sha256_of(file)
            assert checksums.of(file) == sha(b"one")
            assert checksums.hashed == hashed


@pytest.mark.parametrize("replaced", [True, False])
def test_a_change_that_keeps_size_and_time_is_seen(file, tmp_path, now, replaced):
    now(60)
    before = file.stat()
    with Checksums.open(tmp_path / "work") as checksums:
        checksums.of(file)
        if replaced:
            other = tmp_path / "other"
            other.write_bytes(b"two")
            other.replace(file)
        else:
            file.write_bytes(b"two")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = file.stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert checksums.of(file) == sha(b"two")


@pytest.mark.parametrize(
    ("seconds", "skew", "hashed"), [(0, 0, 2), (60, 0, 1), (-60, 0, 2), (60, 90, 2), (60, 30, 1)]
)
def test_what_may_still_change_within_a_tick_is_not_remembered(
    file, tmp_path, now, seconds, skew, hashed
):
    """``seconds`` after its last change the file is hashed, negative if it comes from the future."""
    now(seconds)
    with Checksums.open(tmp_path / "work", skew_s=skew) as checksums:
        checksums.of(file)
        checksums.of(file)
        assert checksums.hashed == hashed


def test_a_file_with_a_time_in_the_future_is_always_read(file, tmp_path, now):
    now(60)
    os.utime(file, (2e9, 2e9 + 1e9))
    with Checksums.open(tmp_path / "work") as checksums:
        checksums.of(file)
        checksums.of(file)
        assert checksums.hashed == 2


@pytest.mark.parametrize("damage", [b"", b"no database at all", b"SQLite format 3\0" + b"x" * 2000])
def test_a_damaged_memory_is_begun_anew(file, tmp_path, now, damage):
    now(60)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "checksums.sqlite").write_bytes(damage)
    for hashed in (1, 0):
        with Checksums.open(tmp_path / "work") as checksums:
            assert checksums.of(file) == sha(b"one")
            assert checksums.hashed == hashed


def test_without_a_place_nothing_is_remembered(file, tmp_path, now):
    now(60)
    (tmp_path / "work").write_text("a file where the folder should be")
    with Checksums.open(tmp_path / "work") as checksums:
        assert checksums.of(file) == sha(b"one")


def test_two_runs_share_one_memory(file, tmp_path, now):
    now(60)
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, (1, 1))
    with (
        Checksums.open(tmp_path / "work") as first,
        Checksums.open(tmp_path / "work") as second,
    ):
        first.of(file)
        second.of(other)
    with Checksums.open(tmp_path / "work") as third:
        third.of(file)
        third.of(other)
        assert third.hashed == 0


def test_clock_skew(tmp_path, now):
    assert abs(clock_skew(tmp_path)) < 1
    now(100)
    assert 99 < clock_skew(tmp_path) < 101
    assert clock_skew(tmp_path / "nowhere") == 0
    assert not list(tmp_path.iterdir())
