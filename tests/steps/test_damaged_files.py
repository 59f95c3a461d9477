"""300 damaged files: each gives one clear line or a result, and no half of a result."""

import gzip
import itertools
import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import L2SError
from l2s_pydra.reports import figures
from l2s_pydra.steps.segment import segment

SHAPE = (18, 20, 16)
AFFINE = np.array([[-1.9, 0.3, 0, 20], [0.3, 2.0, 0.2, -15], [0, -0.2, 2.2, 30], [0, 0, 0, 1]])
HEADER_BYTES = {"nifti1": 348, "nifti2": 540, "mgh": 90}
HANG_SECONDS = 120
"""Long after every other file is done."""


def scan():
    rng = np.random.default_rng(0)
    data = rng.normal(10, 3, SHAPE)
    data[3:15, 4:16, 3:13] += 100
    data[6:12, 7:13, 6:10] += 100
    return data


def originals(folder):
    """Name and uncompressed bytes of one file of each kind."""
    data = scan()
    kinds = {
        "nifti1-i2.nii": nb.Nifti1Image(data.astype(np.int16), AFFINE),
        "nifti1-f4.nii": nb.Nifti1Image(data.astype(np.float32), AFFINE),
        "nifti1-scaled.nii": nb.Nifti1Image(data, AFFINE),
        "nifti1-big.nii": nb.Nifti1Image(
            data.astype(">i2"), AFFINE, nb.Nifti1Header(endianness=">")
        ),
        "nifti2.nii": nb.Nifti2Image(data.astype(np.float32), AFFINE),
        "mgh.mgh": nb.MGHImage(data.astype(np.float32), AFFINE),
    }
    kinds["nifti1-scaled.nii"].set_data_dtype(np.uint8)
    for name, image in kinds.items():
        if name != "mgh.mgh":
            image.set_qform(AFFINE, code=1)
        image.to_filename(folder / name)
        yield name, (folder / name).read_bytes()


def cut(content, rng, head):
    """Keep the beginning, often little of it."""
    return content[: int(len(content) * rng.random() ** 2)]


def flip_header(content, rng, head):
    return flip(content, rng, range(head))


def flip_anywhere(content, rng, head):
    return flip(content, rng, range(len(content)))


def flip(content, rng, where):
    damaged = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        damaged[rng.choice(where)] ^= 1 << rng.integers(8)
    return bytes(damaged)


def blank_header(content, rng, head):
    """Fill a stretch of the header with ones or zeros."""
    start, length = rng.integers(head), rng.integers(1, 13)
    stop = min(start + length, head)
    fill = bytes([rng.choice([0, 255])]) * (stop - start)
    return content[:start] + fill + content[stop:]


def swap_stretches(content, rng, head):
    a, b = sorted(rng.integers(head, size=2))
    n = min(8, b - a)
    damaged = bytearray(content)
    damaged[a : a + n], damaged[b : b + n] = content[b : b + n], content[a : a + n]
    return bytes(damaged)


DAMAGES = (cut, flip_header, flip_header, flip_anywhere, blank_header, swap_stretches)


def damaged_files(folder, count, seed):
    """Write damaged files; damage comes before or after they are compressed, or they are not."""
    rng = np.random.default_rng(seed)
    known = list(originals(folder))
    ways = itertools.cycle(["plain", "compressed", "plain", "after", "compressed"])
    for number, way in zip(range(count), ways, strict=False):
        name, content = known[number % len(known)]
        damage = DAMAGES[rng.integers(len(DAMAGES))]
        head = HEADER_BYTES[name.partition(".")[0].partition("-")[0]]
        if way == "after":
            content = damage(gzip.compress(content, mtime=0), rng, 40)
        else:
            content = damage(content, rng, head)
            if way == "compressed":
                content = gzip.compress(content, mtime=0)
        if way != "plain":
            name = name.replace(".nii", ".nii.gz").replace(".mgh", ".mgz")
        path = folder / f"{number:03d}-{damage.__name__}-{way}-{name}"
        path.write_bytes(content)
        yield path


@contextmanager
def ending():
    """Turn what never ends into an error."""

    def stop(*_):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def whole_images(tree):
    """Read every image of a tree to its end; return how many there are."""
    names = [path for path in tree.rglob("*") if path.is_file()]
    assert not [path for path in names if path.name.startswith(".")]
    images = [path for path in names if path.name.endswith(".nii.gz")]
    for path in images:
        gzip.decompress(path.read_bytes())
        assert np.asanyarray(nb.load(path).dataobj).dtype.kind in "iu"
    return len(images)


@pytest.fixture
def outcome(make_model, files, tmp_path):
    """Segment a file; return the line that it gives, or None for a result."""
    model = files(make_model(spacing_mm=2.0))

    def outcome(path):
        tree = tmp_path / "trees" / path.name
        try:
            with ending():
                result = segment(
                    image=path,
                    **model,
                    entities={"subject": "01", "suffix": "T1w"},
                    source="sub-01/anat/sub-01_T1w.nii.gz",
                    out_dir=tree,
                    device="cpu",
                    threads=1,
                )
        except L2SError as error:
            line = str(error)
        else:
            assert whole_images(tree) == 2
            assert all(file.is_file() for file in result.files)
            return None
        assert "\n" not in line
        assert str(path) in line
        assert ";" in line
        assert not tree.exists() or whole_images(tree) == 0
        return line

    return outcome


def test_each_damaged_file_gives_a_line_or_a_result(outcome, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "overlay_mosaic", lambda *args, **_: args[3].touch())
    outcomes = [outcome(path) for path in damaged_files(tmp_path, 300, seed=1)]
    assert len(outcomes) == 300
    # Both happen, and often: damage of all kinds was tried
    assert 60 < sum(line is None for line in outcomes) < 240


def test_figures_of_what_damaged_headers_say(outcome, tmp_path):
    paths = [
        path
        for path in damaged_files(tmp_path, 90, seed=2)
        if "header" in path.name and "-after-" not in path.name
    ]
    assert any(outcome(path) is None for path in paths[:12])


PROGRAM = """
import json, sys
from pathlib import Path
from l2s_pydra.errors import L2SError
from l2s_pydra.images.volume import load_image, load_labels

lines = []
for path in sorted(Path(sys.argv[1]).glob("[0-9]*")):
    for load in (load_image, load_labels):
        try:
            load(path, allow_2d=True)
        except L2SError as error:
            lines.append(str(error))
        else:
            lines.append(None)
print(json.dumps(lines))
"""


def test_a_process_outlives_damaged_files(tmp_path):
    count = len(list(damaged_files(tmp_path, 120, seed=3)))
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)
    assert len(lines) == 2 * count
    assert any(line is None for line in lines)
    assert all(line is None or str(tmp_path) in line for line in lines)
