"""Where to compute, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["computing_on"]


@contextmanager
def computing_on(device: str = "auto", threads: int | None = None) -> Iterator["torch.device"]:
    """Choose the device and limit PyTorch's CPU threads while the context lasts.

    Parameters
    ----------
    device : str, default="auto"
        ``cpu``, ``cuda``, ``cuda:1`` and the like; ``auto`` is the first GPU if there is one.
    threads : int, optional
        CPU threads of PyTorch; by default PyTorch's own choice.

    Yields
    ------
    torch.device

    Raises
    ------
    ConfigError
        If the device is unknown or not there, or the number of threads is not positive.

    Examples
    --------
    >>> with computing_on("cpu") as device:
    ...     str(device)
    'cpu'
    """
    import torch

    chosen = _choose(device)
    before = torch.get_num_threads()
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"{threads} threads are not enough; ask for at least 1")
        torch.set_num_threads(threads)
    try:
        yield chosen
    finally:
        torch.set_num_threads(before)


def _choose(device: str) -> "torch.device":
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if gpus else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"unknown device {device!r}; available: 'auto', 'cpu', 'cuda', 'cuda:0' and so on"
        ) from error
    if chosen.type == "cuda" and (chosen.index or 0) >= gpus:
        raise ConfigError(
            f"device {device!r} is not there ({gpus} GPUs are usable); use 'cpu' or 'auto'"
        )
    return chosen
