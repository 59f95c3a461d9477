"""How much memory is free, on a GPU or for this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["free_bytes", "free_host_bytes"]


def free_bytes(device: "torch.device | str" = "cpu", *, root: Path = Path("/")) -> int | None:
    """Return how many bytes this process can still take.

    On a GPU, what its driver reports and what PyTorch holds in reserve. On the CPU, the least of what
    the system has to give, what its control groups allow (containers and schedulers set them), and
    what is left of the address space (``ulimit -v``).

    Parameters
    ----------
    device : torch.device or str
        ``cpu``, ``cuda`` or ``cuda:n``.
    root : Path
        Of the file system that the kernel describes itself in.

    Returns
    -------
    int or None
        None where the system does not tell.
    """
    import torch

    chosen = torch.device(device)
    if chosen.type == "cuda":
        free, _ = torch.cuda.mem_get_info(chosen)
        return int(free + torch.cuda.memory_reserved(chosen) - torch.cuda.memory_allocated(chosen))
    return free_host_bytes(root)


def free_host_bytes(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process can still take, GPUs apart; see :func:`free_bytes`."""
    found = [*_of_system(root), *_of_groups(root), *_of_addresses(root)]
    return max(0, min(found)) if found else None


def _of_system(root: Path) -> Iterator[int]:
    known = _table(root / "proc" / "meminfo")
    if "MemAvailable" in known:
        yield 1024 * known["MemAvailable"]


def _of_addresses(root: Path) -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    taken = _table(root / "proc" / "self" / "status").get("VmSize")
    if limit != resource.RLIM_INFINITY and taken is not None:
        yield limit - 1024 * taken


def _of_groups(root: Path) -> Iterator[int]:
    """Give what is left in the control group of this process and in those around it."""
    names = {
        "": ("", "memory.max", "memory.current", "inactive_file"),
        "memory": (
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    }
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers not in names:
            continue
        folder, limit, usage, cache = names[controllers]
        mount = root / "sys" / "fs" / "cgroup" / folder
        own = mount / path.strip("/")
        # In a container, the path may be that outside of it.
        for group in (own, *own.parents):
            if not group.is_relative_to(mount):
                break
            most, taken = (_number(group / name) for name in (limit, usage))
            if most is not None and taken is not None:
                # The cache of files gives way.
                yield most - taken + _table(group / "memory.stat").get(cache, 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _table(path: Path) -> dict[str, int]:
    """Numbers by the name before them: ``MemAvailable:   123 kB``, ``inactive_file 123``."""
    words = [line.replace(":", " ").split() for line in _lines(path)]
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None
