"""How CPUs and GPUs are divided among trainings."""

import multiprocessing

import pytest

from l2s_pydra.workflows.crew import Crew, claim_gpus
from l2s_pydra.workflows.demand import visible_gpus
from l2s_pydra.workflows.options import Options
from l2s_pydra.workflows.session import Session

FREE = 64_000_000_001


@pytest.fixture
def crew(tmp_path, monkeypatch):
    """Divide what a run has among trainings."""
    monkeypatch.setattr("l2s_pydra.workflows.crew.free_host_bytes", lambda: FREE)

    def crew(jobs, **options):
        places = {name: tmp_path / name for name in ("bids_dir", "output_dir", "work_dir")}
        given = Options(**places, levels=("learn",), **options)
        session = Session(options=given, uuid="x", cache=tmp_path, stage=tmp_path)
        return Crew.of(session, jobs), session

    return crew


@pytest.fixture
def gpus(monkeypatch):
    """Let there be two GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-b")


@pytest.mark.parametrize(
    ("jobs", "options", "n_procs", "threads"),
    [
        (6, {"n_procs": 2}, 2, 1),
        (6, {"n_procs": 1}, 1, 1),
        (1, {"n_procs": 2}, 1, 2),
        (2, {"n_procs": 4}, 2, 2),
        (6, {"n_procs": 4, "threads": 2}, 2, 2),
        (6, {"n_procs": 4, "learn_processes": 2}, 2, 2),
    ],
)
def test_on_cpus_each_training_has_a_thread_and_its_part_of_the_memory(
    crew, tmp_path, jobs, options, n_procs, threads
):
    found, session = crew(jobs, device="cpu", **options)
    assert (found.n_procs, found.threads) == (n_procs, threads)
    assert found.gpus == ()
    part = found.resources(session, tmp_path, "mixed, seed 1").memory_bytes
    count = n_procs * options.get("learn_processes", 1)
    assert part == (None if n_procs == 1 else FREE // count)


def test_one_training_on_each_gpu(crew, gpus, tmp_path):
    found, session = crew(6, n_procs=8)
    assert (found.n_procs, found.threads, found.gpus) == (2, 4, ("4", "GPU-b"))
    resources = found.resources(session, tmp_path, "mixed, seed 1")
    assert (resources.device, resources.threads, resources.title) == ("auto", 4, "mixed, seed 1")
    assert resources.cache_dir == str(tmp_path / "work_dir" / "conformed")
    assert resources.memory_bytes is None
    assert crew(1, n_procs=8)[0].n_procs == 1


def test_one_at_a_time_where_a_gpu_is_named_or_shared(crew, gpus):
    for options in ({"device": "cuda:1"}, {"device": "cuda", "learn_processes": 2}):
        found, _ = crew(6, n_procs=8, **options)
        assert (found.n_procs, found.threads, found.gpus) == (1, 8, ())


def test_the_cpu_is_chosen_although_there_are_gpus(crew, gpus):
    assert crew(6, n_procs=2, device="cpu")[0].gpus == ()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("0,1", ["0", "1"]), ("", []), ("-1", []), ("2,-1,3", ["2"]), ("MIG-a", ["MIG-a"])],
)
def test_gpus_are_those_of_the_environment(monkeypatch, given, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected


def test_gpus_are_those_of_the_driver(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus(tmp_path) == ["0", "1"]
    assert visible_gpus(tmp_path / "nowhere") == []


def claim(folder, gpus, claimed, release):
    claimed.put(claim_gpus(folder, gpus, 1))
    release.wait()


def test_no_two_runs_choose_the_same_gpu(tmp_path):
    context = multiprocessing.get_context("spawn")
    claimed, release = context.Queue(), context.Event()
    arguments = (tmp_path, ["a", "b"], claimed, release)
    processes = [context.Process(target=claim, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted(claimed.get(timeout=60) for _ in processes)
    assert found == [("a",), ("a", "b"), ("b",)]  # the last one shares them
    release.set()
    for process in processes:
        process.join(timeout=60)
    # Locks are gone with their processes.
    again = context.Process(target=claim, args=arguments)
    again.start()
    again.join(timeout=60)
    assert claimed.get(timeout=60) == ("a",)


def test_trainings_have_the_gpus_that_are_free(crew, gpus, tmp_path):
    found, session = crew(2, n_procs=2)
    worker = found.worker(session, lambda task, seconds, error: None)
    assert (worker.max_tasks, worker.gpus, worker.tasks_per_gpu) == (2, ("4", "GPU-b"), 1)
    assert (tmp_path / "work_dir" / "gpus").is_dir()
    cpu, session = crew(2, n_procs=2, device="cpu")
    assert cpu.worker(session, lambda task, seconds, error: None).gpus == ()
