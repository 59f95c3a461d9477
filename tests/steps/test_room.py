"""How much memory is free: the least of what several places tell."""

import resource

import pytest

from l2s_pydra.steps.room import free_bytes

KB = 1024


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Write what a kernel tells: ``kernel({"proc/meminfo": "..."})``; no limit of addresses."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


SYSTEM = {"proc/meminfo": "MemTotal:  9000 kB\nMemAvailable:    5000 kB\n"}
STAT = "anon 7\ninactive_file 1000\n"


def test_of_the_system(kernel):
    assert free_bytes("cpu", root=kernel(SYSTEM)) == 5000 * KB


def test_nothing_is_told(kernel):
    assert free_bytes("cpu", root=kernel({"proc/version": "another system"})) is None


def test_this_system_tells():
    found = free_bytes("cpu")
    assert found is not None
    assert 0 < found < 10**15


def test_a_control_group(kernel):
    group = "sys/fs/cgroup/job_1/step_0"
    files = {
        "proc/self/cgroup": "0::/job_1/step_0\n",
        f"{group}/memory.max": "3000000\n",
        f"{group}/memory.current": "1500000\n",
        f"{group}/memory.stat": STAT,
    }
    assert free_bytes("cpu", root=kernel({**SYSTEM, **files})) == 1_501_000
    # One around it allows less.
    outer = {
        "sys/fs/cgroup/job_1/memory.max": "2000000\n",
        "sys/fs/cgroup/job_1/memory.current": "1600000\n",
    }
    assert free_bytes("cpu", root=kernel(outer)) == 400_000
    assert free_bytes("cpu", root=kernel({f"{group}/memory.max": "max\n"})) == 400_000


def test_a_container_sees_its_group_as_the_root(kernel):
    files = {
        "proc/self/cgroup": "0::/system.slice/docker-12.scope\n",
        "sys/fs/cgroup/memory.max": "2000000\n",
        "sys/fs/cgroup/memory.current": "500000\n",
    }
    assert free_bytes("cpu", root=kernel({**SYSTEM, **files})) == 1_500_000


def test_control_groups_of_the_first_version(kernel):
    group = "sys/fs/cgroup/memory/slurm/job_1"
    files = {
        "proc/self/cgroup": "9:cpu,cpuacct:/slurm/job_1\n4:memory:/slurm/job_1\n",
        f"{group}/memory.limit_in_bytes": "2000000\n",
        f"{group}/memory.usage_in_bytes": "1500000\n",
        f"{group}/memory.stat": "total_inactive_file 2000\n",
    }
    assert free_bytes("cpu", root=kernel({**SYSTEM, **files})) == 502_000


def test_addresses_end(kernel, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4_000_000, 4_000_000))
    root = kernel({**SYSTEM, "proc/self/status": "VmPeak:\t 3000 kB\nVmSize:\t 2000 kB\n"})
    assert free_bytes("cpu", root=root) == 4_000_000 - 2000 * KB


def test_more_than_is_allowed_is_taken(kernel):
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "100\n",
        "sys/fs/cgroup/memory.current": "200\n",
    }
    assert free_bytes("cpu", root=kernel({**SYSTEM, **files})) == 0
