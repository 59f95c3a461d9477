"""Finding the other processes, and sharing with them."""

import threading

import pytest
import torch

from l2s_pydra.bilevel import processes as module
from l2s_pydra.bilevel.processes import Processes, environment
from l2s_pydra.errors import ConfigError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "gpu07",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "9500",
    "SLURM_NODELIST": "gpu07,gpu[11-14]",
}


def test_torchrun_and_slurm_say_the_same():
    assert environment(TORCHRUN) == TORCHRUN
    # torchrun inside a Slurm job: the inner launcher counts.
    assert environment({**SLURM, **TORCHRUN, "RANK": "6"})["RANK"] == "6"
    assert environment(SLURM) == TORCHRUN


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node", "node"), ("n[003-017,20]", "n003"), ("a-b1,a-b2", "a-b1"), ("c[7,9]", "c7")],
)
def test_the_first_host_is_the_meeting_point(nodes, host):
    assert environment({**SLURM, "SLURM_NODELIST": nodes})["MASTER_ADDR"] == host


def test_a_process_alone():
    assert environment({}) == {}
    assert environment({**TORCHRUN, "WORLD_SIZE": "1"}) == {}
    alone = Processes()
    tensor = torch.ones(3)
    alone.mean([tensor])
    assert torch.equal(tensor, torch.ones(3))
    assert alone.share([1, 2, 3]) == alone.merged([1, 2, 3]) == [1, 2, 3]
    assert alone.same("x") == "x"


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_what_is_missing_is_named(name):
    with pytest.raises(ConfigError, match=f"does not say {name}: .* torchrun or srun"):
        environment({k: v for k, v in TORCHRUN.items() if k != name})


class Exchange:
    """Stands in for torch.distributed among threads."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size)
        self.rank = threading.local()
        self.values = [None] * size

    def _all(self, value):
        self.barrier.wait()
        self.values[self.rank.value] = value
        self.barrier.wait()
        return list(self.values)

    def all_reduce(self, tensor):
        tensor.copy_(torch.stack(self._all(tensor.clone())).sum(0))

    def all_gather_object(self, into, value):
        into[:] = self._all(value)

    def broadcast_object_list(self, values, src):
        values[:] = self._all(list(values))[src]


def in_threads(size, work, monkeypatch):
    exchange = Exchange(size)
    monkeypatch.setattr(module, "dist", exchange)
    results = [None] * size

    def run(rank):
        exchange.rank.value = rank
        results[rank] = work(Processes(rank=rank, size=size))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.mark.parametrize("bucket", [2**25, 4, 1])
def test_means_of_tensors_of_any_shape_and_type(bucket, monkeypatch):
    monkeypatch.setattr(module, "_BUCKET", bucket)

    def work(processes):
        scale = 1.0 + processes.rank
        tensors = [
            scale * torch.arange(6.0).view(2, 3).t(),
            torch.tensor(scale),
            torch.full((2,), scale, dtype=torch.float64),
            torch.full((5,), -scale),
        ]
        processes.mean(tensors)
        return tensors

    for tensors in in_threads(3, work, monkeypatch):
        torch.testing.assert_close(tensors[0], 2 * torch.arange(6.0).view(2, 3).t())
        assert tensors[1] == 2
        assert tensors[2].dtype == torch.float64
        assert tensors[2].tolist() == [2, 2]
        assert tensors[3].tolist() == [-2] * 5


def test_shares_merge_to_the_whole(monkeypatch):
    items = list("abcdefg")

    def work(processes):
        return processes.merged([i.upper() for i in processes.share(items)])

    for merged in in_threads(3, work, monkeypatch):
        assert merged == [i.upper() for i in items]


def test_the_first_decides(monkeypatch):
    assert in_threads(3, lambda p: p.same({"rank": p.rank}), monkeypatch) == [{"rank": 0}] * 3
