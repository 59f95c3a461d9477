"""Everything a training run needs to go on: one file, no pickle, written atomically."""

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import TrainingConfig
from ..errors import TrainingError
from .updates import UpdateRule

__all__ = ["TrainingState", "copied", "sync"]


@attrs.define(kw_only=True, eq=False)
class TrainingState:
    """What changes during training.

    Randomness is not part of it: every draw depends on the run's seed and the step only.
    """

    identity: str = ""
    """Checksum of settings and data; a checkpoint of another run is not resumed."""
    step: int = 0
    """Steps done."""
    phi: dict[str, Tensor]
    """Parameters of the segmenter."""
    phi_average: dict[str, Tensor]
    """Exponential average of ``phi``."""
    phi_best: dict[str, Tensor]
    """The average that validated best."""
    phi_tuned: dict[str, Tensor] = attrs.field(factory=dict)
    """The average before fine-tuning began; empty before, and in other modes."""
    phi_moments: dict[str, Any]
    """State of the update rule of phi."""
    theta: dict[str, Tensor]
    """Parameters of the augmentation (unconstrained)."""
    theta_average: dict[str, Tensor]
    """Exponential average of ``theta``."""
    theta_moments: dict[str, Any]
    """State of the update rule of theta."""
    theta_steps: int = 0
    """Hypergradient steps done."""
    theta_trace: dict[str, Tensor] = attrs.field(factory=dict)
    """Gradients of theta, of :func:`~l2s_pydra.bilevel.identifiability.record`."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite; they changed nothing."""
    skipped_in_a_row: int = 0
    """How many of them were the last ones."""
    theta_skipped: int = 0
    """Hypergradients that were not finite; theta stayed."""
    theta_skipped_in_a_row: int = 0
    """How many of them were the last ones."""
    checks: list[dict[str, Any]] = attrs.field(factory=list)
    """How the estimator of the hypergradient was chosen, each time."""
    best_dice: float = -1.0
    """Macro Dice on validation of ``phi_best``; -1 before the first validation."""
    stale: int = 0
    """Validations since the best one."""
    best_step: int = 0
    """Step of ``phi_best``."""
    best_per_class: list[float] = attrs.field(factory=list)
    """Dice of each class at ``best_step``; NaN where the class does not occur."""
    seconds: float = 0.0
    """Time spent training, over all sessions of the run."""
    history: list[dict[str, float]] = attrs.field(factory=list)
    """Rows of the training log."""
    recent: list[dict[str, float]] = attrs.field(factory=list)
    """Values of the steps since the last of these rows."""
    memory: list[dict[str, Any]] = attrs.field(factory=list)
    """What was changed so that a step fits into the memory, each time."""

    @classmethod
    def first(
        cls,
        identity: str,
        segmenter: nn.Module,
        augmentation: nn.Module,
        rules: tuple[UpdateRule, UpdateRule],
    ) -> "TrainingState":
        """Return the state before the first step, with the optimisers of phi and theta."""
        phi, theta = segmenter.state_dict(), augmentation.state_dict()
        return cls(
            identity=identity,
            phi=copied(phi),
            phi_average=copied(phi),
            phi_best=copied(phi),
            phi_moments=rules[0].init(list(segmenter.parameters())),
            theta=copied(theta),
            theta_average=copied(theta),
            theta_moments=rules[1].init(list(augmentation.parameters())),
        )

    def log(self, row: Mapping[str, float], theta: Mapping[str, float]) -> None:
        """Add a row to the log: of this step, with the means since the last row, and theta."""
        keys = {key: None for values in self.recent for key in values}
        means = {k: float(np.mean([v[k] for v in self.recent if k in v])) for k in keys}
        known = {key: value for key, value in row.items() if np.isfinite(value)}
        self.history.append({**known, **means, **{f"theta/{k}": v for k, v in theta.items()}})
        self.recent.clear()

    def stop_if_lost(self, config: TrainingConfig, checkpoint: Path | None) -> None:
        """Give up where nothing but skipping is left.

        Raises
        ------
        TrainingError
            If too many steps in a row, or most steps of a run, had a loss or a gradient that was
            not finite; it names the last checkpoint.
        """
        streak = max(self.skipped_in_a_row, self.theta_skipped_in_a_row)
        last = self.step + 1 == config.steps
        if streak < config.stop_after_skipped and not (last and 2 * self.skipped > config.steps):
            return
        kept = "no checkpoint was written yet"
        if checkpoint is not None and checkpoint.exists():
            kept = f"{checkpoint} holds the last checkpoint before"
        what = "loss" if self.skipped_in_a_row == streak else "hypergradient"
        raise TrainingError(
            f"the {what} was not finite {streak} times in a row, up to step {self.step + 1}; lower "
            f"training.learning_rate, set training.gradient_clip or train in fp32 ({kept})"
        )

    def judge(self, scores: Any, weights: Mapping[str, Tensor]) -> float:
        """Keep weights that validate better than those before; return their mean Dice.

        Parameters
        ----------
        scores : (N, K - 1) array
            Dice of each scan and class, NaN where a class does not occur.
        weights : mapping
            Of the segmenter that was validated.
        """
        value = _mean(scores)
        value = value if np.isfinite(value) else 0.0
        if value > self.best_dice:
            self.best_dice, self.best_step, self.stale = value, self.step, 0
            self.best_per_class = [_mean(column) for column in scores.T]
            self.phi_best = copied(weights)
        else:
            self.stale += 1
        return value

    def lay_out(self, params: Sequence[Tensor]) -> None:
        """Give the moments the memory format of the parameters: the order of sums depends on it."""
        self.phi_moments = {
            key: [torch.empty_like(p).copy_(m) for p, m in zip(params, value, strict=True)]
            if isinstance(value, list)
            else value
            for key, value in self.phi_moments.items()
        }

    def save(self, path: str | Path) -> None:
        """Write the state; the previous file stays whole until the new one is on the disk.

        Raises
        ------
        OSError
            If it cannot be written; what was written of it is removed.
        """
        path = Path(path)
        tensors, values = self._flat()
        text = json.dumps(values)
        metadata = {"state": text, "checksum": str(_checksum(text, tensors))}
        # In a folder of its own, as the library makes temporary files too.
        staging = path.with_name(f".{path.name.lstrip('.')}.partial")
        staging.mkdir(exist_ok=True)
        temporary = staging / path.name
        try:
            _enough_space(staging, sum(t.nbytes for t in tensors.values()) + len(text))
            save_file(tensors, temporary, metadata)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        except SafetensorError as error:
            raise _as_os_error(error, path) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _flat(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, on the CPU, and everything else."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for name, value in attrs.asdict(self, recurse=False).items():
            if name.endswith("_moments"):
                values[name] = {k: v for k, v in value.items() if not isinstance(v, list)}
                for key, items in value.items():
                    if isinstance(items, list):
                        tensors |= {f"{name}/{key}/{i}": t for i, t in enumerate(items)}
            elif isinstance(value, dict):
                tensors |= {f"{name}/{key}": tensor for key, tensor in value.items()}
            else:
                values[name] = value
        return _unshared(tensors), values

    @property
    def nbytes(self) -> int:
        """Size of all tensors together."""
        return sum(tensor.nbytes for tensor in self._flat()[0].values())

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "TrainingState":
        """Read what :meth:`save` wrote.

        Raises
        ------
        TrainingError
            If the file is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if str(_checksum(metadata["state"], tensors)) != metadata["checksum"]:
                raise ValueError("its checksum is wrong")
            tensors = {key: tensor.to(device) for key, tensor in tensors.items()}
            values = json.loads(metadata["state"])
            return cls(**values | _assembled(values, tensors))
        except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{path}: the checkpoint cannot be read ({error}); delete it to start over"
            ) from error


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, without graphs."""
    return {key: value.detach().clone() for key, value in tensors.items()}


def _mean(scores: Any) -> float:
    """Mean of the scores of classes that occur; NaN if none does."""
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if known.size else float("nan")


def _assembled(values: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Fields that hold tensors, from their flat names."""
    fields: dict[str, Any] = {}
    for field in attrs.fields(TrainingState):
        if field.name in values and not field.name.endswith("_moments"):
            continue
        own = {k.split("/", 1)[1]: t for k, t in tensors.items() if k.split("/")[0] == field.name}
        if field.name.endswith("_moments"):
            lists: dict[str, list[Tensor]] = {}
            for key in sorted(own, key=lambda k: (k.split("/")[0], int(k.split("/")[1]))):
                lists.setdefault(key.split("/")[0], []).append(own[key])
            fields[field.name] = {**values[field.name], **lists}
        else:
            fields[field.name] = own
    return fields


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous on the CPU, each with memory of its own: a tensor stored twice would be refused."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        where = flat.untyped_storage().data_ptr()
        found[name] = flat.clone() if where in seen else flat
        seen.add(where)
    return found


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders, where the system does not open them
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of the values and of the tensors in the order of their names."""
    found = zlib.crc32(text.encode())
    for name in sorted(tensors):
        flat = tensors[name].contiguous().reshape(-1)
        found = zlib.crc32(flat.view(torch.uint8).numpy().data, zlib.crc32(name.encode(), found))
    return found


def _enough_space(folder: Path, needed: int) -> None:
    """Raise what a full disk would raise, before it is full."""
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """Turn an error that the library wraps back into that of the system."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(f"{path}: {error}")
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path))
