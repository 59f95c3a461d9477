r"""Optimiser steps as pure functions, and their derivatives.

The hypergradient passes through one optimiser step :math:`\phi' = \mathrm{update}(\phi, g)`.
For SGD, Adam and AdamW the Jacobian :math:`\partial\phi'/\partial g` is diagonal with a closed
form, so no graph through the step is needed: an :class:`UpdateRule` is ``init``, ``update``,
``derivative`` and ``revert``.

The steps are those of :mod:`torch.optim`; the split into pure functions is that of Optax
(Babuschkin et al., 2020).
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

__all__ = ["State", "UpdateRule", "adam", "adamw", "sgd"]

State = dict[str, Any]
"""Flat: ``{"step": int}`` and lists of tensors in the order of the parameters (moments)."""


class _Init(Protocol):
    def __call__(self, params: Sequence[Tensor]) -> State: ...


class _Update(Protocol):
    def __call__(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        *,
        learning_rate: float,
        donate: bool = False,
    ) -> tuple[list[Tensor], State]: ...


class _Derivative(Protocol):
    def __call__(
        self,
        vector: Sequence[Tensor],
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        state: State,
        *,
        learning_rate: float,
    ) -> list[Tensor]: ...


class _Revert(Protocol):
    def __call__(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        state: State,
        *,
        learning_rate: float,
    ) -> list[Tensor]: ...


@attrs.frozen(kw_only=True)
class UpdateRule:
    r"""One optimiser: four functions over lists of tensors.

    None of them records a graph, and none changes its arguments, with one exception that has to
    be asked for (``donate``).
    """

    init: _Init
    """``init(params) -> state``: the state before the first step."""
    update: _Update
    r"""``update(grads, state, params, *, learning_rate, donate=False) -> (new_params, new_state)``:
    :math:`\phi'` and the moments after the step, as new tensors. With ``donate`` the moments are
    overwritten in place, which spares a copy of them; ``state`` must not be used afterwards."""
    derivative: _Derivative
    r"""``derivative(vector, grads, params, new_state, *, learning_rate) -> u``, with
    :math:`u = (\partial\phi'/\partial g)^\top v`, elementwise. ``params`` are those *before* the
    step, ``new_state`` is the state *after* it."""
    revert: _Revert
    r"""``revert(new_params, grads, new_state, *, learning_rate) -> params``: :math:`\phi` from
    :math:`\phi'`, to rounding, so that no copy of it has to be kept over the step."""
    penalised: bool = False
    """Whether ``derivative`` looks at ``params``: an L2 penalty is part of the gradient."""


def _detached(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach() for tensor in tensors]


def _zeros(params: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(param, requires_grad=False) for param in params]


def _owned(tensors: list[Tensor], donate: bool) -> list[Tensor]:
    return tensors if donate else [tensor.clone() for tensor in tensors]


def _with_decay(
    grads: Sequence[Tensor], params: Sequence[Tensor], weight_decay: float
) -> list[Tensor]:
    """Gradient of the loss plus the L2 penalty."""
    if not weight_decay:
        return _detached(grads)
    return list(torch._foreach_add(_detached(grads), _detached(params), alpha=weight_decay))


def sgd(*, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> UpdateRule:
    r"""Gradient descent, with momentum (Sutskever et al., ICML 2013, in torch's form).

    .. math::
        b_t = \mu b_{t-1} + g + \lambda\phi, \qquad
        \phi' = \phi - \eta\, b_t \quad\text{or, Nesterov,}\quad
        \phi - \eta\,(g + \lambda\phi + \mu b_t)

    so that :math:`\partial\phi'/\partial g` is :math:`-\eta`, or :math:`-\eta(1 + \mu)`.

    Parameters
    ----------
    momentum : float, default=0
        :math:`\mu`.
    nesterov : bool, default=False
        Look ahead along the momentum.
    weight_decay : float, default=0
        :math:`\lambda`, L2.

    Returns
    -------
    UpdateRule
        Equal to :class:`torch.optim.SGD`. State: ``step``, and ``m`` if there is momentum.
    """

    def init(params: Sequence[Tensor]) -> State:
        return {"step": 0, "m": _zeros(params)} if momentum else {"step": 0}

    @torch.no_grad()
    def update(
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        *,
        learning_rate: float,
        donate: bool = False,
    ) -> tuple[list[Tensor], State]:
        direction = _with_decay(grads, params, weight_decay)
        new_state: State = {"step": state["step"] + 1}
        if momentum:
            buffer = _owned(state["m"], donate)
            torch._foreach_mul_(buffer, momentum)
            torch._foreach_add_(buffer, direction)
            new_state["m"] = buffer
            ahead = torch._foreach_add(direction, buffer, alpha=momentum) if nesterov else buffer
            direction = list(ahead)
        new = torch._foreach_add(_detached(params), direction, alpha=-learning_rate)
        return list(new), new_state

    @torch.no_grad()
    def derivative(
        vector: Sequence[Tensor],
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        state: State,
        *,
        learning_rate: float,
    ) -> list[Tensor]:
        factor = 1 + momentum if nesterov else 1.0
        return list(torch._foreach_mul(_detached(vector), -learning_rate * factor))

    @torch.no_grad()
    def revert(
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        state: State,
        *,
        learning_rate: float,
    ) -> list[Tensor]:
        if momentum and not nesterov:
            return list(torch._foreach_add(_detached(params), state["m"], alpha=learning_rate))
        old = list(torch._foreach_add(_detached(params), _detached(grads), alpha=learning_rate))
        if momentum:
            torch._foreach_add_(old, state["m"], alpha=learning_rate * momentum)
        if weight_decay:
            torch._foreach_div_(old, 1 - learning_rate * weight_decay)
        return old

    return UpdateRule(
        init=init,
        update=update,
        derivative=derivative,
        revert=revert,
    )


def adam(
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> UpdateRule:
    r"""Adam (Kingma & Ba, ICLR 2015), with the L2 penalty in the gradient.

    With :math:`\tilde g = g + \lambda\phi`, the updated moments :math:`m, v`,
    :math:`c_i = 1 - \beta_i^t` and :math:`d = \sqrt{v}/\sqrt{c_2} + \epsilon`,

    .. math::
        \phi' = \phi - \frac{\eta}{c_1}\,\frac{m}{d}, \qquad
        \frac{\partial\phi'}{\partial g} = -\frac{\eta}{c_1}\left[\frac{1-\beta_1}{d}
        - \frac{m\,(1-\beta_2)\,\tilde g}{\sqrt{c_2}\,\sqrt{v}\,d^2}\right],

    taken as exactly 0 where :math:`v = 0`: the weights of a dead unit or an absent class do not
    depend on theta, and the square root has no derivative there.

    Parameters
    ----------
    betas : (float, float), default=(0.9, 0.999)
        :math:`\beta_1, \beta_2`.
    eps : float, default=1e-8
        :math:`\epsilon`.
    weight_decay : float, default=0
        :math:`\lambda`, L2.

    Returns
    -------
    UpdateRule
        Equal to :class:`torch.optim.Adam`. State: ``step``, ``m``, ``v``.
    """
    return _adam(betas, eps, coupled_decay=weight_decay, decoupled_decay=0.0)


def adamw(
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> UpdateRule:
    r"""Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019).

    :math:`\phi` is first multiplied by :math:`1 - \eta\lambda`, which does not touch
    :math:`\partial\phi'/\partial g`; see :func:`adam` for the rest.

    Parameters
    ----------
    betas : (float, float), default=(0.9, 0.999)
        :math:`\beta_1, \beta_2`.
    eps : float, default=1e-8
        :math:`\epsilon`.
    weight_decay : float, default=1e-2
        :math:`\lambda`.

    Returns
    -------
    UpdateRule
        Equal to :class:`torch.optim.AdamW`. State: ``step``, ``m``, ``v``.
    """
    return _adam(betas, eps, coupled_decay=0.0, decoupled_decay=weight_decay)


def _adam(
    betas: tuple[float, float], eps: float, *, coupled_decay: float, decoupled_decay: float
) -> UpdateRule:
    beta1, beta2 = betas

    def init(params: Sequence[Tensor]) -> State:
        return {"step": 0, "m": _zeros(params), "v": _zeros(params)}

    def denominators(state: State) -> tuple[list[Tensor], list[Tensor]]:
        """Root of the second moment, and d."""
        root = torch._foreach_sqrt(state["v"])
        scaled = torch._foreach_div(root, math.sqrt(1 - beta2 ** state["step"]))
        torch._foreach_add_(scaled, eps)
        return list(root), list(scaled)

    @torch.no_grad()
    def update(
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        *,
        learning_rate: float,
        donate: bool = False,
    ) -> tuple[list[Tensor], State]:
        step = state["step"] + 1
        grads = _with_decay(grads, params, coupled_decay)
        m, v = _owned(state["m"], donate), _owned(state["v"], donate)
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, value=1 - beta2)
        new_state: State = {"step": step, "m": m, "v": v}
        kept = 1 - learning_rate * decoupled_decay
        new = list(torch._foreach_mul(_detached(params), kept))
        _, d = denominators(new_state)
        torch._foreach_addcdiv_(new, m, d, value=-learning_rate / (1 - beta1**step))
        return new, new_state

    @torch.no_grad()
    def derivative(
        vector: Sequence[Tensor],
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        state: State,
        *,
        learning_rate: float,
    ) -> list[Tensor]:
        step = state["step"]
        grads = _with_decay(grads, params, coupled_decay)
        root, d = denominators(state)
        # Quotients before products: m/d and g/root are of order one, 1/(root d^2) overflows.
        floor = torch._foreach_maximum(root, [torch.finfo(r.dtype).tiny for r in root])
        jacobian = torch._foreach_div(state["m"], d)
        torch._foreach_mul_(jacobian, (beta2 - 1) / math.sqrt(1 - beta2**step))
        torch._foreach_mul_(jacobian, torch._foreach_div(grads, floor))
        torch._foreach_add_(jacobian, 1 - beta1)
        torch._foreach_div_(jacobian, d)
        torch._foreach_mul_(jacobian, -learning_rate / (1 - beta1**step))
        # 0 where v is 0, else exactly 1: no root of a number above 0 is below the floor.
        torch._foreach_mul_(jacobian, torch._foreach_div(root, floor))
        torch._foreach_mul_(jacobian, _detached(vector))
        return list(jacobian)

    @torch.no_grad()
    def revert(
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        state: State,
        *,
        learning_rate: float,
    ) -> list[Tensor]:
        _, d = denominators(state)
        rate = learning_rate / (1 - beta1 ** state["step"])
        old = list(torch._foreach_addcdiv(_detached(params), state["m"], d, value=rate))
        if decoupled_decay:
            torch._foreach_div_(old, 1 - learning_rate * decoupled_decay)
        return old

    return UpdateRule(
        init=init,
        update=update,
        derivative=derivative,
        revert=revert,
        penalised=bool(coupled_decay),
    )
