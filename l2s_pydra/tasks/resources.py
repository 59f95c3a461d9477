"""What the tasks share: the type of an image, and where a task runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from attrs import validators
from fileformats.generic import File
from fileformats.medimage import MghGz, Nifti1, NiftiGz

from .checks import at_least, known_device

__all__ = ["Image", "Resources"]

Image = NiftiGz | Nifti1 | MghGz | File
"""Type of an image file.

``File`` closes the union because Pydra checks types, magic number included, while it builds the
workflow: a truncated image would otherwise stop the workflow and not only its own task.
"""


@attrs.frozen(kw_only=True)
class Resources:
    """Where a task runs; no part of what it computes, and therefore no part of Pydra's hash.

    Examples
    --------
    >>> from pydra.utils.hash import hash_function
    >>> hash_function(Resources(device="cpu")) == hash_function(Resources(threads=8))
    True
    """

    device: str = attrs.field(default="auto", validator=[validators.instance_of(str), known_device])
    """``auto``, ``cpu``, ``cuda`` or ``cuda:n``."""
    threads: int | None = attrs.field(default=None, validator=at_least(1))
    """CPU threads; ``None`` leaves PyTorch's default."""
    memory_gb: float | None = attrs.field(default=None, validator=at_least(0.001))
    """Memory that a worker sets aside for the task, GB; ``None`` leaves it to the worker."""
    max_memory_mb: float | None = attrs.field(default=None, validator=at_least(1))
    """Memory that a network may take to segment, MB; tiles become as small as that asks for."""
    processes: int = attrs.field(default=1, validator=at_least(1))
    """Processes that share every batch of a training, one for each GPU."""
    checkpoint_dir: str | None = None
    """Folder from which an interrupted training run goes on; ``None`` keeps no checkpoints."""
    checkpoint_every: int | None = attrs.field(default=None, validator=at_least(1))
    """Steps between two checkpoints; ``None`` is the setting ``training.checkpoint_every``."""
    keep_checkpoints: int = attrs.field(default=2, validator=at_least(1))
    """How many checkpoints are kept."""
    memory_bytes: int | None = attrs.field(default=None, validator=at_least(1))
    """Most memory that a training step may take; ``None`` is what is free when it starts."""
    cache_dir: str | None = None
    """Folder that keeps data on the training grid for further trainings; ``None`` keeps none."""
    title: str | None = None
    """What the log calls a training that runs beside others; ``None`` where there is but one."""

    def of_training(self) -> dict[str, Any]:
        """Return what a training takes of it, by the names of :func:`l2s_pydra.steps.learn.learn`."""
        folders = {"checkpoint_dir": self.checkpoint_dir, "cache_dir": self.cache_dir}
        names = ("device", "threads", "processes", "checkpoint_every", "keep_checkpoints")
        return {
            **{name: Path(folder) if folder else None for name, folder in folders.items()},
            **{name: getattr(self, name) for name in (*names, "memory_bytes", "title")},
        }

    def __bytes_repr__(self, cache: Any) -> Iterator[bytes]:
        """Give Pydra the same bytes for all instances."""
        yield b"l2s_pydra.tasks.Resources"
