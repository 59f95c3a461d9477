"""The worker never takes more than it was given, and gives each task what it needs."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2s_pydra.tasks import Resources
from l2s_pydra.workflows.demand import Demand, demand_of
from l2s_pydra.workflows.engine import claim, outcome_of, run
from l2s_pydra.workflows.ledger import Ledger
from l2s_pydra.workflows.worker import L2SWorker

ROOT = Path(__file__).parents[2]

TASKS = """
    import json, os, signal, time
    from pathlib import Path
    from pydra.compose import python, workflow
    from l2s_pydra.tasks import Resources

    @python.define(outputs=["seen"])
    def Work(name: str, folder: str, resources: Resources = Resources()) -> str:
        started = time.monotonic()
        seen = {"threads": resources.threads, "device": resources.device,
                "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}
        if name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "crashed":
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(0.3)
        times = {"started": started, "ended": time.monotonic()}
        (Path(folder) / f"{name}.json").write_text(json.dumps(seen | times))
        return name

    @python.define(outputs=["seen"])
    def Foreign(name: str, folder: str) -> str:
        started = time.monotonic()
        time.sleep(0.3)
        times = {"started": started, "ended": time.monotonic(), "threads": 1, "gpus": None}
        (Path(folder) / f"{name}.json").write_text(json.dumps(times))
        return name

    @workflow.define(outputs=["ours", "theirs"])
    def Many(names: list[str], resources: list[Resources], foreign: list[str], folder: str) -> tuple[list[str], list[str]]:
        both = Work(folder=folder).split(("name", "resources"), name=names, resources=resources)
        ours = workflow.add(both.combine(["name", "resources"]))
        theirs = workflow.add(Foreign(folder=folder).split(name=foreign).combine("name"))
        return ours.seen, theirs.seen
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Module of tasks that the processes can import too."""
    (tmp_path / "worker_tasks.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NO_ET", "1")
    sys.modules.pop("worker_tasks", None)
    yield importlib.import_module("worker_tasks")
    del sys.modules["worker_tasks"]


@pytest.fixture
def work(tasks, tmp_path):
    """Run tasks of some resources and foreign ones; what each saw, and what became of it."""

    def work(resources, foreign=0, **options):
        folder = tmp_path / "seen"
        folder.mkdir()
        strangers = [f"foreign{n}" for n in range(foreign)]
        with claim(tmp_path / "work") as cache:
            parts = [
                tasks.Work(name=name, folder=str(folder), resources=one)
                for name, one in resources.items()
            ]
            workflow = tasks.Many(
                names=list(resources),
                resources=list(resources.values()),
                foreign=strangers,
                folder=str(folder),
            )
            failed = []

            def notify(task, seconds, error):
                if error:
                    failed.append(task.name)

            run(workflow, parts, cache, L2SWorker(notify=notify, **options))
            outcomes = {part.name: outcome_of([part, workflow], cache) for part in parts}
        assert {name for name, outcome in outcomes.items() if not outcome.outputs} == set(failed)
        seen = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        return seen, outcomes

    return work


def most(seen, amount):
    """Most of something that was in use at a time."""
    return max(
        sum(amount(b) for b in seen.values() if b["started"] <= a["started"] < b["ended"])
        for a in seen.values()
    )


def test_cpus_and_gpus_are_not_shared(work):
    gpu = Resources(device="cuda", threads=1)
    resources = {f"gpu{n}": gpu for n in range(3)}
    resources |= {f"cpu{n}": Resources(device="cpu", threads=2) for n in range(2)}
    resources["large"] = Resources(device="cpu", threads=16)
    resources["silent"] = Resources(device="cpu")
    seen, outcomes = work(resources, foreign=2, n_procs=3, gpus=["4", "GPU-b"])
    assert len(seen) == 9
    assert all(outcome.outputs for outcome in outcomes.values())
    assert most(seen, lambda one: one["threads"]) <= 3
    for name in ("4", "GPU-b"):
        assert most(seen, lambda one, name=name: one["gpus"] == name) == 1
    assert {seen[f"gpu{n}"]["gpus"] for n in range(3)} == {"4", "GPU-b"}
    # One that wants more than there is gets all there is; one that says nothing a single CPU.
    assert (seen["large"]["threads"], seen["silent"]["threads"]) == (3, 1)


def test_a_named_gpu_is_that_one_and_two_processes_have_two(work):
    resources = {
        "second": Resources(device="cuda:1"),
        "both": Resources(device="auto", processes=2, threads=1),
        "none": Resources(device="cpu"),
    }
    seen, _ = work(resources, n_procs=4, gpus=["4", "7"])
    assert (seen["second"]["gpus"], seen["second"]["device"]) == ("7", "cuda")
    assert seen["both"]["gpus"] == "4,7"
    assert seen["none"]["gpus"] == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_process_that_is_killed_fails_its_own_task_only(work):
    names = ("first", "killed", "crashed", "last")
    seen, outcomes = work({name: Resources(device="cpu") for name in names}, n_procs=2)
    assert sorted(seen) == ["first", "last"]
    assert "SIGKILL" in outcomes["killed"].traceback
    assert "most likely because memory ran out" in outcomes["killed"].traceback
    assert "SIGSEGV" in outcomes["crashed"].traceback
    assert outcomes["first"].outputs
    assert outcomes["last"].outputs


def test_pydra_finds_the_worker_by_its_name(tasks, tmp_path):
    """As in an installed package, whose plugins lie in Pydra's own namespace."""
    (tmp_path / "pydra").mkdir()
    (tmp_path / "pydra" / "workers").symlink_to(ROOT / "pydra_workers")
    script = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from pydra.engine.submitter import Submitter
        from worker_tasks import Foreign

        if __name__ == "__main__":
            with Submitter(cache_root={str(tmp_path / "cache")!r}, worker="l2s", n_procs=1) as submit:
                print(type(submit.worker).__name__, submit(Foreign(name="a", folder=".")).outputs.seen)
    """
    (tmp_path / "by_name.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, "by_name.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["L2SWorker", "a"], done.stderr


@pytest.mark.parametrize(
    ("resources", "auto_gpus", "expected"),
    [
        (Resources(device="cpu", threads=3), 1, Demand(cpus=3, memory_gb=4)),
        (Resources(device="auto"), 1, Demand(memory_gb=4, gpus=1)),
        (Resources(device="auto"), 0, Demand(memory_gb=4)),
        (Resources(device="cuda:2"), 0, Demand(memory_gb=4, gpus=1, gpu=2)),
        (Resources(device="cuda", processes=2), 1, Demand(cpus=2, memory_gb=4, gpus=2)),
        (Resources(device="cpu", max_memory_mb=5500), 0, Demand(memory_gb=7)),
        (Resources(device="cpu", memory_gb=1.5), 0, Demand(memory_gb=1.5)),
    ],
)
def test_what_tasks_of_ours_need(resources, auto_gpus, expected):
    class Task:
        pass

    task = Task()
    assert demand_of(task, auto_gpus=auto_gpus) == Demand()
    task.resources = resources
    assert demand_of(task, auto_gpus=auto_gpus) == expected


DEMANDS = st.builds(
    Demand,
    cpus=st.integers(1, 6),
    memory_gb=st.integers(0, 20).map(float),
    gpus=st.integers(0, 3),
)


@settings(deadline=None, max_examples=60)
@given(demands=st.lists(DEMANDS, min_size=1, max_size=12), limit=st.none() | st.integers(1, 3))
def test_never_more_than_there_is_and_nobody_waits_for_ever(demands, limit):
    ledger = Ledger(4, 10.0, ["a", "b"], 1, limit)
    held = []

    async def one(demand):
        demand = ledger.capped(demand)
        gpus = await ledger.take(demand)
        assert len(set(gpus)) == demand.gpus
        held.append((demand, gpus))
        assert sum(d.cpus for d, _ in held) <= 4
        assert sum(d.memory_gb for d, _ in held) <= 10
        assert len(held) <= (limit or len(demands))
        in_use = [gpu for _, some in held for gpu in some]
        assert len(set(in_use)) == len(in_use)
        await asyncio.sleep(0)
        held.remove((demand, gpus))
        ledger.give(demand, gpus)

    async def everyone():
        await asyncio.wait_for(asyncio.gather(*map(one, demands)), 10)

    asyncio.run(everyone())


def test_small_tasks_do_not_overtake_a_large_one_for_ever():
    ledger = Ledger(2)
    order = []

    async def one(name, cpus):
        demand = Demand(cpus=cpus)
        gpus = await ledger.take(demand)
        order.append(name)
        await asyncio.sleep(0.01)
        ledger.give(demand, gpus)

    async def everyone():
        first = asyncio.create_task(one("small", 1))
        await asyncio.sleep(0)
        await asyncio.gather(first, one("large", 2), *(one("small", 1) for _ in range(5)))

    asyncio.run(everyone())
    assert order.index("large") == 1


def test_one_that_gives_up_waiting_holds_nothing():
    ledger = Ledger(1)

    async def main():
        held = await ledger.take(Demand())
        waiting = asyncio.create_task(ledger.take(Demand()))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        granted = asyncio.create_task(ledger.take(Demand()))
        await asyncio.sleep(0)
        ledger.give(Demand(), held)
        granted.cancel()  # after it was granted, before it could notice
        await asyncio.gather(granted, return_exceptions=True)
        return held, await asyncio.wait_for(ledger.take(Demand()), 1)

    first, last = asyncio.run(main())
    assert last == first


def test_a_waiting_gpu_task_leaves_the_cpus_it_cannot_use_to_others():
    ledger = Ledger(4, gpus=["a"])

    async def main():
        gpu = Demand(gpus=1)
        first = await ledger.take(gpu)
        waiting = asyncio.create_task(ledger.take(gpu))
        await asyncio.sleep(0)
        for _ in range(2):
            await asyncio.wait_for(ledger.take(Demand()), 1)
        with pytest.raises(TimeoutError):  # the fourth CPU is kept for the one that waits
            await asyncio.wait_for(ledger.take(Demand()), 0.05)
        ledger.give(gpu, first)
        assert await waiting == ("a",)

    asyncio.run(main())
