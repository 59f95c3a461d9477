"""What the levels of a run share."""

import shutil
from pathlib import Path

import pytest

import l2s_pydra
from l2s_pydra import __version__
from l2s_pydra.bids.entities import ImageRecord
from l2s_pydra.workflows import session as module
from l2s_pydra.workflows.engine import Outcome
from l2s_pydra.workflows.finishing import Todo
from l2s_pydra.workflows.options import Options
from l2s_pydra.workflows.reuse import Decision
from l2s_pydra.workflows.segmenting import DECIDES_NO_SEGMENTATION, _Jobs
from l2s_pydra.workflows.session import Failure, Session, code_version


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Make a session with some options on a machine with much memory."""
    monkeypatch.setattr(module, "_memory_gb", lambda: 1000)

    def session(**options):
        places = {name: tmp_path / name for name in ("bids_dir", "output_dir", "work_dir")}
        return Session(
            options=Options(**places, levels=("participant",), **{"device": "cpu", **options}),
            uuid="run",
            cache=tmp_path / "cache",
            stage=tmp_path / "stage",
        )

    return session


@pytest.mark.parametrize(
    ("options", "jobs", "expected"),
    [
        ({"n_procs": 8}, 100, (8, 1)),
        ({"n_procs": 8}, 2, (2, 4)),
        ({"n_procs": 8}, 1, (1, 8)),
        ({"n_procs": 8, "threads": 2}, 100, (4, 2)),
        ({"n_procs": 2, "threads": 4}, 100, (1, 4)),
        ({"n_procs": 32, "device": "cuda"}, 100, (4, 8)),
    ],
)
def test_cpus_are_shared(session, options, jobs, expected):
    assert session(**options).share(jobs) == expected


def test_little_memory_means_few_processes(session, monkeypatch):
    monkeypatch.setattr(module, "_memory_gb", lambda: 9)
    assert session(n_procs=8).share(100) == (2, 4)


@pytest.mark.parametrize(
    ("max_memory_mb", "at_once"), [(None, 8), (500, 8), (3000, 8), (3001, 6), (9000, 3), (1e6, 1)]
)
def test_memory_that_was_asked_for_is_set_aside(session, monkeypatch, max_memory_mb, at_once):
    monkeypatch.setattr(module, "_memory_gb", lambda: 32)
    assert session(n_procs=8).share(100, max_memory_mb=max_memory_mb)[0] == at_once


def test_images_are_divided_by_the_memory_that_was_asked_for(session, monkeypatch):
    asked = []
    here = session(n_procs=8, max_memory_mb=9000.0)

    def share(self, jobs, **options):
        asked.append((jobs, options))
        raise InterruptedError

    monkeypatch.setattr(Session, "share", share)
    monkeypatch.setattr(_Jobs, "_restore", lambda *_: None)
    places = ("sub-01/anat/sub-01_T1w.nii", "sub-02/anat/sub-02_T1w.nii")
    images = [
        ImageRecord.from_path(here.options.bids_dir / p, here.options.bids_dir) for p in places
    ]
    todo = [Todo(image, {}, Decision("new")) for image in images]
    with pytest.raises(InterruptedError):
        _Jobs(here, {}, None).run(todo)
    assert asked == [(2, {"max_memory_mb": 9000.0})]


def test_a_failure_is_published_without_the_folders_of_this_computer(session, tmp_path, caplog):
    here = session()
    image = tmp_path / "bids_dir" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    outcome = Outcome(traceback=f"l2s_pydra.errors.ImageError: {image}: is empty\n")
    failure = here.fail(
        Failure(name="sub-01_T1w", file="sub-01_T1w", participant="sub-01", outcome=outcome)
    )
    assert failure.row == {
        "file": "sub-01_T1w",
        "participant": "sub-01",
        "reason": "<bids_dir>/sub-01/anat/sub-01_T1w.nii.gz: is empty",
        "log": "sub-01/log/run/crash-sub-01_T1w.txt",
    }
    assert str(tmp_path) not in (here.stage / failure.log).read_text()
    assert str(image) in caplog.text


def test_the_code_version_is_that_of_what_decides_results(monkeypatch, tmp_path):
    assert code_version().startswith(f"{__version__}+")
    assert code_version() == code_version()
    assert code_version(without=["reports"]) != code_version()


@pytest.mark.parametrize(
    ("edited", "counts"),
    [
        ("steps/segment.py", True),
        ("segmentation/inference.py", True),
        ("bids/derivatives.py", True),
        ("images/conform.py", True),
        ("bilevel/training.py", False),
        ("bids/methods.py", False),
        ("steps/leftovers.py", False),
        ("tasks/segment.py", False),
    ],
)
def test_what_decides_a_segmentation_is_in_its_code_version(
    edited, counts, monkeypatch, tmp_path_factory
):
    def version():
        return code_version(without=DECIDES_NO_SEGMENTATION)

    before, ours = version(), Path(l2s_pydra.__file__).parent
    root = tmp_path_factory.mktemp("copy") / "l2s_pydra"
    ignored = shutil.ignore_patterns("*.pyc", "*.safetensors", "data")
    shutil.copytree(ours, root, ignore=ignored)
    monkeypatch.setattr(l2s_pydra, "__file__", str(root / "__init__.py"))
    assert version() == before
    with (root / edited).open("a") as file:
        file.write("# edited")
    assert (version() != before) == counts
