"""The last checkpoints of a training run, of which one can always be read."""

import logging
import shutil
from pathlib import Path

import torch

from ..errors import TrainingError
from .state import TrainingState, sync

__all__ = ["Checkpoints"]

logger = logging.getLogger(__name__)


class Checkpoints:
    """A few checkpoints side by side: ``training.safetensors``, ``training.1.safetensors``, ...

    The first is the newest. A new one is complete and on the disk before any of them is touched,
    and the others move by renaming, so that a process that is killed, or a power cut, leaves at
    least one that is whole. A folder belongs to one run at a time.

    Parameters
    ----------
    path : Path
        File of the newest.
    keep : int, default=2
        How many are kept.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path = Path(path)
        others = (self.path.with_stem(f"{self.path.stem}.{i}") for i in range(1, max(1, keep)))
        self.files = [self.path, *others]
        self._damaged: set[Path] = set()
        self._step: int | None = None

    @property
    def saved_step(self) -> int | None:
        """Step of the newest checkpoint that this object has read or written; None without one."""
        return self._step

    def load(self, device: torch.device | str = "cpu") -> TrainingState | None:
        """Read the newest checkpoint that is whole.

        Parameters
        ----------
        device : torch.device or str
            Where its tensors go.

        Returns
        -------
        TrainingState or None
            None if there is no file at all.

        Raises
        ------
        TrainingError
            If there are files, and all of them are damaged.
        """
        first: TrainingError | None = None
        for path in self.files:
            if not path.exists():
                continue
            try:
                state = TrainingState.load(path, device)
            except TrainingError as error:
                first = first or error
                self._damaged.add(path)
                continue
            if first is not None:
                damaged = ", ".join(str(path) for path in sorted(self._damaged))
                logger.warning(
                    "%s: damaged; going on from the checkpoint before, of step %d (%s)",
                    damaged,
                    state.step,
                    path,
                )
            self._step = state.step
            return state
        if first is not None:
            raise first
        return None

    def save(self, state: TrainingState) -> bool:
        """Write a checkpoint, or warn that it could not be written.

        Returns
        -------
        bool
            Whether it was written. If not, those before are as they were.
        """
        try:
            self._save(state)
        except OSError as error:
            kept = "there is none"
            if self._step is not None:
                kept = f"that of step {self._step} is kept"
            logger.warning(
                "%s: the checkpoint of step %d cannot be written (%s; about %.1f MB are needed); "
                "%s, and the training goes on",
                self.path,
                state.step,
                error.strerror or error,
                state.nbytes / 1e6,
                kept,
            )
            return False
        self._step = state.step
        return True

    def tidy(self) -> None:
        """Remove what writers that were killed have left."""
        for path in self.path.parent.glob(f".{self.path.name}.*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _save(self, state: TrainingState) -> None:
        incoming = self.path.with_name(f".{self.path.name}.new")
        try:
            state.save(incoming)
            for newer, older in reversed(list(zip(self.files, self.files[1:], strict=False))):
                # A damaged one must not take the place of one that is whole.
                if newer.exists() and newer not in self._damaged:
                    newer.replace(older)
                    self._damaged.discard(older)
            incoming.replace(self.path)
            self._damaged.discard(self.path)
            sync(self.path.parent)
        finally:
            incoming.unlink(missing_ok=True)
