"""Data-parallel training: several processes, each with a share of every batch.

What :class:`torch.nn.parallel.DistributedDataParallel` does in its backward hooks, averaging the
gradients, is done here between the passes: a step of the two levels has three of them, none of
which is a plain ``backward()``, and DDP supports neither differentiated gradients nor gradients
of the input alone.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError

__all__ = ["Processes", "check_shares", "environment", "joined"]

_T = TypeVar("_T")
_BUCKET = 2**25
"""Numbers averaged at once: small tensors travel together."""


@attrs.frozen(kw_only=True)
class Processes:
    """The processes of a training run, seen from one of them; alone by default."""

    rank: int = 0
    """0 to size - 1; 0 writes files."""
    size: int = 1
    """Number of processes."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> list[_T]:
        """Every ``size``-th item, from ``rank`` on.

        Examples
        --------
        >>> Processes(rank=1, size=2).share("abcdef")
        ['b', 'd', 'f']
        """
        return list(items[self.rank :: self.size])

    @torch.no_grad()
    def mean(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over the processes, in place."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def merged(self, own: Sequence[_T]) -> list[_T]:
        """Undo :meth:`share`: collect what each process made of its items, in their order."""
        if self.size == 1:
            return list(own)
        shares: list[Any] = [None] * self.size
        dist.all_gather_object(shares, list(own))
        longest = max(map(len, shares))
        return [share[i] for i in range(longest) for share in shares if i < len(share)]

    def same(self, value: _T) -> _T:
        """Return the value of the first process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def check_shares(batch_size: int, processes: int) -> None:
    """Check that a batch can be shared evenly.

    Raises
    ------
    ConfigError
        If not.
    """
    if batch_size % processes:
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared by {processes} processes; "
            f"set training.batch_size to a multiple of {processes}"
        )


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return rank, size and meeting point of this process as torchrun spells them.

    Parameters
    ----------
    variables : mapping
        The environment, as set by torchrun (``RANK``, ``WORLD_SIZE``, ...) or by Slurm's ``srun``
        (``SLURM_PROCID``, ``SLURM_NTASKS``, ...).

    Returns
    -------
    dict
        ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``; empty if the
        process is alone.

    Raises
    ------
    ConfigError
        If a variable is missing.

    Examples
    --------
    >>> environment({})
    {}
    >>> environment({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1",
    ...     "SLURM_JOB_ID": "120007", "SLURM_NODELIST": "gpu[07-08]"})["MASTER_ADDR"]
    'gpu07'
    """
    if "WORLD_SIZE" in variables:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        found = {name: variables.get(name, "") for name in names}
    elif "SLURM_PROCID" in variables:
        port = 20000 + int(variables.get("SLURM_JOB_ID", "0") or 0) % 20000
        found = {
            "RANK": variables["SLURM_PROCID"],
            "WORLD_SIZE": variables.get("SLURM_NTASKS", ""),
            "LOCAL_RANK": variables.get("SLURM_LOCALID", ""),
            "MASTER_ADDR": variables.get("MASTER_ADDR", "")
            or _first_host(variables.get("SLURM_NODELIST", "")),
            "MASTER_PORT": variables.get("MASTER_PORT", "") or str(port),
        }
    else:
        return {}
    if found["WORLD_SIZE"] == "1":
        return {}
    missing = sorted(name for name, value in found.items() if not value)
    if missing:
        raise ConfigError(
            f"the environment does not say {missing[0]}: start the processes with torchrun or srun"
        )
    return found


def _first_host(nodes: str) -> str:
    """First of the hosts in Slurm's notation, ``gpu[07-08,11],cpu1``."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else ""


@contextlib.contextmanager
def joined(device: torch.device | str | None = None) -> Iterator[Processes]:
    """Meet the other processes of the run, if the environment speaks of any.

    Parameters
    ----------
    device : torch.device or str, optional
        Of this process; NCCL is used for GPUs, Gloo for CPUs.

    Yields
    ------
    Processes
    """
    found = environment(os.environ)
    if not found:
        yield Processes()
        return
    os.environ.update(found)
    backend = "nccl" if torch.device(device or "cpu").type == "cuda" else "gloo"
    dist.init_process_group(backend)
    try:
        yield Processes(rank=dist.get_rank(), size=dist.get_world_size())
    finally:
        dist.destroy_process_group()
