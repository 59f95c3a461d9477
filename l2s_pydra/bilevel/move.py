r"""The step from :math:`\phi` to :math:`\phi'`, there and back."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn

from .passes import assign, exchanged
from .pieces import pieces

__all__ = ["Move", "Rule"]


class Rule(Protocol):
    """What is used of an :class:`~l2s_pydra.bilevel.updates.UpdateRule`."""

    @property
    def update(self) -> Callable[..., tuple[list[Tensor], dict[str, Any]]]:
        """Give phi' and the state after the step."""

    @property
    def derivative(self) -> Callable[..., list[Tensor]]:
        """Give a vector pulled back through the step."""

    @property
    def revert(self) -> Callable[..., list[Tensor]]:
        """Give phi from phi'."""

    @property
    def penalised(self) -> bool:
        """Tell whether ``derivative`` looks at phi."""


@attrs.define
class Move:
    """One step of an update rule, and where the segmenter stands on it.

    The rule's functions are elementwise, so they are called with matching pieces of all lists.
    """

    rule: Rule
    params: list[nn.Parameter]
    """The segmenter's own parameters."""
    state: dict[str, Any]
    """State of the rule; it is consumed and becomes that after the step."""
    learning_rate: float
    waiting: list[Tensor] | None = attrs.field(default=None, init=False)
    """phi', until the segmenter holds it."""

    @torch.no_grad()
    def take(self, grads: Sequence[Tensor], *, in_place: bool = True) -> None:
        """Compute phi', and let the segmenter hold it or, not ``in_place``, still phi."""
        if not in_place:
            self.waiting = [torch.empty_like(p, requires_grad=False) for p in self.params]
        targets = self.params if self.waiting is None else self.waiting
        moments, after = self._moments(), self.state
        for old, grad, target, *parts in pieces(self.params, grads, targets, *moments.values()):
            new, after = self.rule.update(
                grad,
                {**self.state, **dict(zip(moments, parts, strict=True))},
                old,
                learning_rate=self.learning_rate,
                donate=True,
            )
            torch._foreach_copy_(target, new)
        # Written to piece by piece.
        self.state = {**after, **moments}

    def to_new(self) -> None:
        """Let the segmenter hold phi'."""
        if self.waiting is not None:
            assign(self.params, self.waiting)
            self.waiting = None

    @torch.no_grad()
    def pull_back(self, vector: list[Tensor], grads: Sequence[Tensor]) -> None:
        """Replace the vector, in place, by u: pulled back through the step."""
        # phi is kept nowhere once the segmenter holds phi', but can be had again.
        moved = self.waiting is None and self.rule.penalised
        for param, part, grad, state in self._pieces(vector, grads):
            old = self._reverted(param, grad, state) if moved else param
            u = self.rule.derivative(part, grad, old, state, learning_rate=self.learning_rate)
            torch._foreach_copy_(part, u)

    @torch.no_grad()
    def old(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Return phi, while the segmenter holds phi'."""
        found = [torch.empty_like(p, requires_grad=False) for p in self.params]
        for param, part, grad, state in self._pieces(found, grads):
            torch._foreach_copy_(part, self._reverted(param, grad, state))
        return found

    @contextlib.contextmanager
    def at_old(self, grads: list[Tensor]) -> Iterator[None]:
        """Let the segmenter hold phi for a while instead of phi'; ``grads`` are emptied."""
        old = self.old(grads)
        grads.clear()
        with exchanged(self.params, old):
            yield

    @contextlib.contextmanager
    def displaced(self, u: list[Tensor], grads: list[Tensor], scale: Tensor) -> Iterator[None]:
        """Let the segmenter hold phi + ``scale`` u for a while, its parameters without gradients.

        ``u`` is overwritten, ``grads`` are emptied: the only copy of the parameters that is held
        meanwhile is that of phi'.
        """
        self._displace(u, grads, scale)
        grads.clear()
        try:
            for param in self.params:
                param.requires_grad_(False)
            yield
        finally:
            assign(self.params, u)
            for param in self.params:
                param.requires_grad_()

    @torch.no_grad()
    def _displace(self, u: list[Tensor], grads: list[Tensor], scale: Tensor) -> None:
        """Put phi + ``scale`` u into the segmenter, and phi' into ``u``."""
        for here, part, grad, state in self._pieces(u, grads):
            torch._foreach_mul_(part, scale)
            torch._foreach_add_(part, self._reverted(here, grad, state))
            new = [tensor.clone() for tensor in here]
            torch._foreach_copy_(here, part)
            torch._foreach_copy_(part, new)

    def _moments(self) -> dict[str, list[Tensor]]:
        return {name: value for name, value in self.state.items() if isinstance(value, list)}

    def _pieces(
        self, vector: Sequence[Tensor], grads: Sequence[Tensor]
    ) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor], dict[str, Any]]]:
        """Pieces of the parameters, of a vector, of the gradient, and the state that goes with."""
        moments = self._moments()
        for param, part, grad, *parts in pieces(self.params, vector, grads, *moments.values()):
            state = {**self.state, **dict(zip(moments, parts, strict=True))}
            yield param, part, grad, state

    def _reverted(
        self, param: list[Tensor], grad: list[Tensor], state: dict[str, Any]
    ) -> list[Tensor]:
        return self.rule.revert(param, grad, state, learning_rate=self.learning_rate)
