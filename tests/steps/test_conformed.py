"""What is kept is what was made, whatever happens to the folder."""

import json
import logging
import multiprocessing
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from l2s_pydra.images import volume
from l2s_pydra.steps import conformed as module
from l2s_pydra.steps.conformed import Conformed, code_digest, content_of
from l2s_pydra.steps.prepare import prepare


def entry(value=1.0):
    arrays = {
        "a": torch.arange(5000, dtype=torch.float32) * value,
        "b": torch.ones(3, 4, dtype=torch.uint8),
        "c": torch.empty(0, dtype=torch.int16),
    }
    return arrays, {"n": 1 / 3, "list": [1, 2]}


@pytest.fixture
def keep(tmp_path):
    """Ask a store for an entry; return it and how often it was made."""
    made = []

    def keep(key=None, value=1.0):
        made.append(0)
        store = Conformed(tmp_path / "cache")

        def make():
            made[-1] += 1
            return entry(value)

        return *store.get("thing", key or {"of": 1}, make), made[-1]

    return keep


def same(one, two):
    assert set(one) == set(two)
    for name in one:
        assert one[name].dtype == two[name].dtype
        assert torch.equal(one[name], two[name])


def files(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_an_entry_is_made_once(keep, tmp_path):
    for expected in (1, 0, 0):
        arrays, record, made = keep()
        same(arrays, entry()[0])
        assert record == entry()[1]
        assert made == expected
    (name,) = files(tmp_path / "cache")
    assert re.fullmatch(r"thing-[0-9a-f]{32}\.safetensors", name)


def test_another_key_is_another_entry(keep, tmp_path, monkeypatch):
    keep({"of": 1})
    assert keep({"of": 2})[-1] == 1
    monkeypatch.setattr(module, "code_digest", lambda: "of other code")
    assert keep({"of": 1})[-1] == 1
    assert len(files(tmp_path / "cache")) == 3


def test_arrays_are_mapped_and_private(keep, tmp_path):
    keep()
    arrays, _, _ = keep()
    (name,) = files(tmp_path / "cache")
    assert name in Path("/proc/self/maps").read_text()
    arrays["a"][:] = -1
    assert keep()[0]["a"][1] == 1


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "replaced", "record"])
def test_a_damaged_entry_is_made_anew(keep, tmp_path, caplog, damage):
    keep()
    (path,) = (tmp_path / "cache").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-9] ^= 1
    elif damage == "record":
        content = content.replace(b"0.3333", b"0.4333")
    path.write_bytes(
        {"cut": content[:-100], "emptied": b"", "replaced": b"no tensors"}.get(damage, content)
    )
    with caplog.at_level(logging.WARNING):
        arrays, record, made = keep()
    assert made == 1
    assert f"{path}: is damaged" in caplog.text
    same(arrays, entry()[0])
    assert record == entry()[1]
    assert keep()[-1] == 0


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        arrays, record = Conformed(tmp_path / "file").get("thing", {}, entry)
    same(arrays, entry()[0])
    assert record == entry()[1]
    assert "cannot be written" in caplog.text


def test_nothing_is_left_of_an_entry_that_failed(tmp_path):
    def fail():
        raise InterruptedError

    store = Conformed(tmp_path)
    with pytest.raises(InterruptedError):
        store.get("thing", {}, fail)
    assert files(tmp_path) == []


def _many(folder, start):
    start.wait()
    for number in range(20):
        arrays, record = Conformed(folder).get("thing", {"of": number}, lambda n=number: entry(n))
        good = record == entry()[1] and torch.equal(arrays["a"], entry(number)[0]["a"])
        if not good:
            os._exit(1)


def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [context.Process(target=_many, args=(tmp_path, start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(files(tmp_path)) == 20
    for path in tmp_path.iterdir():
        with safe_open(path, "pt") as file:
            assert json.loads(file.metadata()["record"]) == entry()[1]


def test_the_code_is_there():
    root = Path(module.__file__).parents[1]
    assert all((root / name).is_file() for name in module._CODE)
    assert re.fullmatch("[0-9a-f]{64}", code_digest())


def test_the_code_of_all_that_is_kept_counts():
    """What the grid and the examiner import of ours is listed, but for what decides nothing."""
    root = Path(module.__file__).parents[1]
    found = set()
    steps = ("grid", "examine", "sources", "remarks", "alignment", "schemes")
    images = ("conform", "volume", "reading", "headers", "boxes", "interpolation")
    for place in [*(f"steps/{name}" for name in steps), *(f"images/{name}" for name in images)]:
        text = (root / f"{place}.py").read_text()
        for dots, path in re.findall(r"^ *from (\.+)([\w.]+) import", text, re.MULTILINE):
            file = path.replace(".", "/") + ".py"
            found.add(f"{place.partition('/')[0]}/{file}" if dots == "." else file)
    found = {f for f in found if (root / f).is_file()}
    undecided = {"config.py", "errors.py", "bilevel/training.py", "steps/conformed.py"}
    assert found - undecided <= set(module._CODE)
    assert set(module._CODE) - found <= {
        "steps/examine.py",
        "steps/grid.py",
        "synthesis/intensity.py",
    }


def test_the_content_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_of(tmp_path / "a") == expected  # FIPS 180-2, appendix B.1
    assert content_of(tmp_path / "b") is None


# ---------------------------------------------------------------- of a training


def everything(data, facts):
    arrays = list(data.synthesizer.label_maps)
    for scan in (*data.learn, *data.validate):
        arrays += [scan.image, scan.target, scan.fine_image, scan.fine_channels]
    tables = data.synthesizer.labels
    arrays += [tables.group, tables.channel, tables.swap]
    return arrays, (tables.group_names, facts, data.statistics, list(data.own))


@pytest.fixture
def opened(monkeypatch):
    """Names of the files whose voxels were read."""
    read = []

    def count(image, path, *rest, original=volume.read_voxels):
        read.append(Path(path).name)
        return original(image, path, *rest)

    monkeypatch.setattr(volume, "read_voxels", count)
    return read


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"synthesis__oversampling": 1, "segmenter__ndim": 2},
        {"synthesis__subclusters": 2, "spacing_mm": 3.0},
    ],
)
@pytest.mark.parametrize("stripped", [True, False])
def test_a_training_gets_the_same_with_and_without(lobes, tmp_path, opened, changes, stripped):
    given = lobes.inputs(stripped=stripped, config=lobes.config(**changes))
    given["roles"][0:0], given["names"][0:0] = ["test"], ["sub-4"]
    for name, made in (("images", lobes.picture(lobes.head(3), seed=9)), ("labels", lobes.head(3))):
        given[name][0:0] = [lobes.write(f"test-{name}.nii.gz", made)]
    plain, values = everything(*prepare(**given))
    assert len(opened) == len(set(opened)) == 9
    for reads in (9, 0):
        opened.clear()
        arrays, others = everything(*prepare(**given, cache_dir=tmp_path / "cache"))
        assert len(opened) == reads
        assert others == values
        for one, two in zip(plain, arrays, strict=True):
            assert one.dtype == two.dtype
            assert torch.equal(one, two)
    kinds = [name.split("-")[0] for name in files(tmp_path / "cache")]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "facts": 5,
        "scan": 3,
        "own": 2,
        "map": 1,
    }


def test_only_what_changed_is_read_again(lobes, tmp_path, opened):
    given = lobes.inputs()
    prepare(**given, cache_dir=tmp_path / "cache")
    opened.clear()
    given["label_maps"].append(lobes.write("new.nii.gz", lobes.head(-2)))
    prepare(**given, cache_dir=tmp_path / "cache")
    assert opened == ["new.nii.gz"]
    opened.clear()
    # The same content under another name.
    given["images"][0] = given["images"][0].rename(tmp_path / "renamed.nii.gz")
    prepare(**given, cache_dir=tmp_path / "cache")
    assert opened == []
    # Another grid needs all voxels, each once.
    given["config"] = lobes.config(spacing_mm=2.5)
    prepare(**given, cache_dir=tmp_path / "cache")
    assert len(opened) == len(set(opened)) == 8


def test_warnings_are_repeated(lobes, tmp_path, caplog):
    given = lobes.inputs()
    given["labels"][1] = lobes.write("far.nii.gz", lobes.head(9))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prepare(**given, cache_dir=tmp_path / "cache")
        assert caplog.text.count("far.nii.gz: the labels fit their image better") == 1
