"""Out of memory in the middle of a step: how it is recognised, and the way back."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor, nn

from ..config import TrainingConfig
from ..errors import TrainingError
from .state import TrainingState, copied

__all__ = ["Recovery", "Relief", "lighter", "ran_out_of_memory", "too_little"]

_T = TypeVar("_T")

_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Of errors that have no class of their own: PyTorch's CPU allocator, C++, and libraries for GPUs."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a GPU or a CPU.

    Examples
    --------
    >>> ran_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> ran_out_of_memory(RuntimeError("shapes do not fit"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


@attrs.define(kw_only=True, eq=False)
class Recovery:
    """What a step may have half changed, as it was before: networks, moments, counters.

    The copies are made anew at each step, into the same memory.
    """

    segmenter: nn.Module
    augmentation: nn.Module
    _state: TrainingState | None = attrs.field(default=None, init=False)
    _live: list[Tensor] = attrs.field(factory=list, init=False)
    _copies: list[Tensor] = attrs.field(factory=list, init=False)

    @torch.no_grad()
    def remember(self, state: TrainingState) -> None:
        """Copy what there is before a step."""
        modules = (self.segmenter, self.augmentation)
        live = [t.detach() for m in modules for t in (*m.parameters(), *m.buffers())]
        live += [t for value in _lists(state.phi_moments) for t in value]
        if [t.shape for t in live] != [t.shape for t in self._copies]:
            self._copies = [torch.empty_like(t) for t in live]
        torch._foreach_copy_(self._copies, live)
        self._live = live
        # Its tensors are replaced, not written to, but for those of theta.
        self._state = attrs.evolve(
            state,
            theta_average=copied(state.theta_average),
            theta_trace=copied(state.theta_trace),
            checks=list(state.checks),
            phi_moments={k: list(v) if isinstance(v, list) else v
                         for k, v in state.phi_moments.items()},
        )  # fmt: skip

    @torch.no_grad()
    def restore(self, state: TrainingState) -> None:
        """Put everything back."""
        if self._state is None:
            raise ValueError("there is nothing to go back to; call remember before the step")
        torch._foreach_copy_(self._live, self._copies)
        for field in attrs.fields(TrainingState):
            setattr(state, field.name, getattr(self._state, field.name))

    def forget(self) -> None:
        """Let go of the copies."""
        self._state, self._live, self._copies = None, [], []


@attrs.define(kw_only=True, eq=False)
class Relief:
    """Takes steps, and where memory runs out goes back and takes the step with less, once."""

    recovery: Recovery
    ease: Callable[[str], None]
    """``ease(reason)`` makes steps take less memory, or raises if they cannot."""
    device: torch.device
    eased: bool = False
    """Whether that has happened."""

    def __call__(self, take: Callable[[], _T], state: TrainingState) -> _T:
        """Return what ``take()`` returns."""
        if not self.eased:
            self.recovery.remember(state)
        try:
            return take()
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        # Beyond the handler, whose traceback holds what the step had made.
        if not self.eased:
            self.recovery.restore(state)
            self.recovery.forget()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.ease(reason)
        self.eased = True
        return self(take, state)


def lighter(config: TrainingConfig, step: int, reason: str) -> dict[str, Any]:
    """Return what is changed after a step that ran out of memory, and why.

    Parameters
    ----------
    config : TrainingConfig
        Of the step.
    step : int
        Which.
    reason : str
        What the system said.

    Raises
    ------
    TrainingError
        If nothing is left to change that leaves the result as it is.
    """
    whole = max(config.batch_size, config.real_batch_size)
    at_once = min(config.micro_batch_size or whole, whole)
    if config.checkpoint_activations and at_once == 1:
        raise too_little(step, reason)
    size = max(1, at_once // 2)
    return {
        "step": step,
        "checkpoint_activations": True,
        "micro_batch_size": size,
        "crop": None,
        "why": f"out of memory at step {step} ({reason}); from there on, activations are computed "
        f"again in the backward passes and {size} image(s) pass the network at a time, which takes "
        "longer and changes the result by rounding only.",
    }


def too_little(step: int, reason: str) -> TrainingError:
    """Return the error of a run that cannot take less memory."""
    return TrainingError(
        f"out of memory at step {step} ({reason}); use a device with more memory, or set "
        "training.checkpoint_activations=true and training.micro_batch_size=1, a smaller "
        "synthesis.crop, segmenter.width or synthesis.oversampling, or a larger spacing_mm"
    )


def _lists(moments: dict[str, Any]) -> list[list[Tensor]]:
    return [value for value in moments.values() if isinstance(value, list)]
