"""Everything a training run needs to go on: one file, no pickle, written atomically."""

import json
import os
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import TrainingError

__all__ = ["TrainingState"]


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

    def save(self, path: str | Path) -> None:
        """Write the state; the previous file stays whole until the new one is complete."""
        path = Path(path)
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
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        metadata = {"state": json.dumps(values)}
        # Averages start as copies, but a tensor stored twice would be refused.
        tensors = {
            k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
            for k, v in tensors.items()
        }
        try:
            save_file(tensors, temporary, metadata)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "TrainingState":
        """Read what :meth:`save` wrote.

        Raises
        ------
        TrainingError
            If the file is damaged.
        """
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                values = json.loads(file.metadata()["state"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return cls(**values | _assembled(values, tensors))
        except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{path}: the checkpoint cannot be read ({error}); delete it to start over"
            ) from error


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
