r"""Hypergradients: how the real loss changes with theta, through one step of the segmenter.

With a synthetic batch :math:`\tilde x = A_\theta(x_s)`, one step of Learn2Synth is

.. math::
    \ell_s(\phi, \theta) = L(S_\phi(\tilde x), y_s), \qquad
    \phi' = \mathrm{update}(\phi, \nabla_\phi \ell_s), \qquad
    \ell_r(\phi') = L(S_{\phi'}(x_r), y_r),

and, as :math:`\partial\phi'/\partial g` is diagonal in every
:class:`~l2s_pydra.bilevel.updates.UpdateRule`, with
:math:`u = (\partial\phi'/\partial g)^\top\, \nabla_{\phi'} \ell_r`,

.. math::
    \frac{d\ell_r}{d\theta} = \nabla_\theta \langle \nabla_\phi \ell_s(\phi, \theta), u\rangle
    = \left(\frac{\partial\tilde x}{\partial\theta}\right)^{\!\top} \nabla_{\tilde x}
      \left[\frac{d}{d\varepsilon} L(S_{\phi + \varepsilon u}(\tilde x), y_s)
      \right]_{\varepsilon = 0}.

The estimators differ in how they compute the last expression: :class:`Exact` differentiates the
gradient; :class:`OneSidedDifference` runs one more first-order pass at a displaced :math:`\phi`.

The real images never train the segmenter: their gradient only enters :math:`u`. The segmenter
must be deterministic and without batch statistics (no dropout, no batch norm), or the passes do
not see the same function. Autocast, if any, belongs inside the losses: it would otherwise keep
casts of parameters that have changed since.

References
----------
Hu et al., Learn2Synth, ICCV 2025 (the two levels); Liu et al., DARTS, ICLR 2019 (the mixed
derivative as a difference of first-order gradients).
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["BilevelStep", "Exact", "Hypergradient", "OneSidedDifference", "Predict", "plain_step"]

Predict = Callable[[Tensor], Tensor]
"""The segmenter at some value of phi: image (B, C, *S) -> logits (B, K, *S)."""


class SyntheticLoss(Protocol):
    """``synthetic_loss(predict, x, part)``: loss of ``predict(x)``, a *mean* over the images.

    ``x`` is the slice ``part`` of the synthetic batch, so the targets are to be sliced likewise.
    """

    def __call__(self, predict: Predict, x: Tensor, part: slice, /) -> Tensor: ...


class _Rule(Protocol):
    """What is used of an :class:`~l2s_pydra.bilevel.updates.UpdateRule`."""

    @property
    def update(self) -> Callable[..., tuple[list[Tensor], dict[str, Any]]]: ...

    @property
    def derivative(self) -> Callable[..., list[Tensor]]: ...


@attrs.frozen(kw_only=True)
class BilevelStep:
    """What one step of the two levels leaves behind, beside the updated segmenter."""

    synthetic_loss: Tensor
    """() tensor, at phi."""
    real_loss: Tensor
    """() tensor, at phi'."""
    theta_gradient: list[Tensor]
    """Hypergradient, in the order and shapes of theta; zeros where an entry has no effect."""
    state: dict[str, Any]
    """State of the update rule after the step."""
    gradient_norm: Tensor
    """() tensor, Euclidean norm of the synthetic gradient."""


@attrs.frozen(kw_only=True)
class _Inner:
    """The synthetic problem at phi."""

    segmenter: nn.Module
    params: dict[str, nn.Parameter]
    image: Tensor
    """(B, C, *S) tensor with its graph to theta."""
    loss: SyntheticLoss
    theta: Sequence[Tensor]
    part: slice
    """Images that enter the mixed derivative."""

    @property
    def whole(self) -> bool:
        return bool(self.part.stop == len(self.image))

    def predict_at(self, params: Sequence[Tensor]) -> Predict:
        """Return the segmenter with other parameters; its own stay as they are."""
        replaced = dict(zip(self.params, params, strict=True))
        return lambda x: functional_call(self.segmenter, replaced, (x,))


@attrs.frozen(kw_only=True)
class _Linearised:
    """The synthetic loss, its gradient, and the map u -> grad_theta <gradient, u>."""

    loss: Tensor
    grads: list[Tensor]
    contract: Callable[[list[Tensor]], list[Tensor]]
    """May overwrite u."""


class Hypergradient(abc.ABC):
    """A way to differentiate the real loss with respect to theta."""

    @abc.abstractmethod
    def _linearise(self, inner: _Inner) -> _Linearised:
        """Run the synthetic pass and prepare the mixed derivative."""

    def __call__(
        self,
        segmenter: nn.Module,
        rule: _Rule,
        state: dict[str, Any],
        *,
        augment: Callable[[], Tensor],
        synthetic_loss: SyntheticLoss,
        real_loss: Callable[[Predict], Tensor],
        theta: Sequence[Tensor],
        learning_rate: float,
        synthetic_fraction: float = 1.0,
    ) -> BilevelStep:
        r"""Update the segmenter on a synthetic batch and return the hypergradient of theta.

        Parameters
        ----------
        segmenter : Module
            :math:`S_\phi`; its trainable parameters are updated in place, and are exactly
            :math:`\phi'` afterwards.
        rule : UpdateRule
            The optimiser of :math:`\phi`.
        state : dict
            State of ``rule``, made by ``rule.init(list(segmenter.parameters()))`` (those that
            require a gradient). It is consumed: go on with the returned one.
        augment : callable
            Makes :math:`\tilde x`, (B, C, \*S), with its graph to ``theta``.
        synthetic_loss : callable
            ``synthetic_loss(predict, x, part)``: :math:`\ell_s` of the images
            ``part`` of the batch, a mean over them.
        real_loss : callable
            ``real_loss(predict)``: :math:`\ell_r`.
        theta : sequence of Tensor
            What to differentiate with respect to.
        learning_rate : float
            Of this step of :math:`\phi`.
        synthetic_fraction : float, default=1
            q, share of the synthetic batch in the mixed derivative (its first images, at least
            one); the result then estimates that of the whole batch.

        Returns
        -------
        BilevelStep

        Raises
        ------
        ValueError
            If the augmented image does not depend on ``theta``, or the fraction is not in (0, 1].
        """
        params = _trainable(segmenter)
        image = _augmented(augment)
        inner = _Inner(
            segmenter=segmenter,
            params=params,
            image=image,
            loss=synthetic_loss,
            theta=theta,
            part=_part(len(image), synthetic_fraction),
        )
        linear = self._linearise(inner)
        phi = list(params.values())
        new, new_state = rule.update(
            linear.grads, state, phi, learning_rate=learning_rate, donate=True
        )
        outer, vector = _real_gradient(real_loss, inner, new)
        u = rule.derivative(vector, linear.grads, phi, new_state, learning_rate=learning_rate)
        del vector
        gradient_norm = _norm(linear.grads)
        linear.grads.clear()
        theta_gradient = linear.contract(u)
        _assign(phi, new)
        return BilevelStep(
            synthetic_loss=linear.loss,
            real_loss=outer,
            theta_gradient=theta_gradient,
            state=new_state,
            gradient_norm=gradient_norm,
        )


@attrs.frozen
class Exact(Hypergradient):
    """Differentiates the gradient itself: a vector-Jacobian product through its graph.

    Right to rounding, for every architecture that is twice differentiable by autograd; about
    twice the memory of a plain step, and neither compiled nor fused kernels.
    """

    def _linearise(self, inner: _Inner) -> _Linearised:
        # With a part of the batch only, the graph is built later, for that part alone.
        image = inner.image if inner.whole else inner.image.detach()
        loss, grads = self._gradient(inner, image, slice(None), create_graph=inner.whole)

        def contract(u: list[Tensor]) -> list[Tensor]:
            part_grads = graph
            if not inner.whole:
                part = inner.image[inner.part]
                _, part_grads = self._gradient(inner, part, inner.part, create_graph=True)
            return _grad(part_grads, inner.theta, u)

        graph = list(grads) if inner.whole else []
        return _Linearised(loss=loss.detach(), grads=[g.detach() for g in grads], contract=contract)

    @staticmethod
    def _gradient(
        inner: _Inner, image: Tensor, part: slice, *, create_graph: bool
    ) -> tuple[Tensor, list[Tensor]]:
        loss = inner.loss(inner.segmenter, image, part)
        return loss, _grad(loss, list(inner.params.values()), create_graph=create_graph)


@attrs.frozen
class OneSidedDifference(Hypergradient):
    r"""Difference of two image gradients, at :math:`\phi` and at a displaced :math:`\phi`.

    .. math::
        \nabla_{\tilde x}\frac{d}{d\varepsilon} L(S_{\phi+\varepsilon u}(\tilde x)) \approx
        \frac{\|u\|}{\epsilon}\left[\nabla_{\tilde x} L(S_{\phi + \epsilon u/\|u\|}(\tilde x))
        - \nabla_{\tilde x} L(S_\phi(\tilde x))\right]

    The second term is a by-product of the synthetic backward pass, so one first-order pass is all
    it costs, at the memory of a plain step; autocast and compiled kernels work. For smooth
    activations the relative error is 1e-3 to 2e-2; where many kinks are crossed together (ReLU
    with instance norm) it is of order one: use :class:`Exact` there.

    Parameters
    ----------
    epsilon : float, default=1e-2
        :math:`\epsilon`, norm of the displacement of :math:`\phi`.
    """

    epsilon: float = attrs.field(default=1e-2, validator=attrs.validators.gt(0))

    def _linearise(self, inner: _Inner) -> _Linearised:
        params = list(inner.params.values())
        image = inner.image.detach().requires_grad_()
        loss = inner.loss(inner.segmenter, image, slice(None))
        *grads, at_phi = _grad(loss, [*params, image])
        part = inner.part
        # A mean over the part weighs each image B / |part| times as much as one over the batch.
        at_phi = at_phi[part] * (len(image) / part.stop)

        def contract(u: list[Tensor]) -> list[Tensor]:
            norm = _norm(u)
            # Where u is 0 the displacement is 0, and so is norm / epsilon below.
            scale = self.epsilon / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            torch._foreach_mul_(u, scale)
            torch._foreach_add_(u, [param.detach() for param in params])
            displaced = inner.image[part].detach().requires_grad_()
            (there,) = _grad(inner.loss(inner.predict_at(u), displaced, part), [displaced])
            direction = there.sub_(at_phi).mul_(norm / self.epsilon)
            return _grad(inner.image[part], inner.theta, direction)

        return _Linearised(loss=loss.detach(), grads=grads, contract=contract)


def plain_step(
    segmenter: nn.Module,
    rule: _Rule,
    state: dict[str, Any],
    *,
    loss: Callable[[Predict], Tensor],
    learning_rate: float,
) -> tuple[Tensor, dict[str, Any], Tensor]:
    """Update the segmenter on one loss, without a hypergradient.

    Parameters
    ----------
    segmenter : Module
        Its trainable parameters are updated in place.
    rule : UpdateRule
        The optimiser.
    state : dict
        State of ``rule``. It is consumed: go on with the returned one.
    loss : callable
        ``loss(predict)``, a () tensor.
    learning_rate : float
        Of this step.

    Returns
    -------
    loss : () tensor
        Before the step.
    state : dict
        State of ``rule`` after the step.
    gradient_norm : () tensor
        Euclidean norm of the gradient.
    """
    params = list(_trainable(segmenter).values())
    value = loss(segmenter)
    grads = _grad(value, params)
    new, state = rule.update(grads, state, params, learning_rate=learning_rate, donate=True)
    _assign(params, new)
    return value.detach(), state, _norm(grads)


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: param for name, param in module.named_parameters() if param.requires_grad}


def _augmented(augment: Callable[[], Tensor]) -> Tensor:
    image = augment()
    if not image.requires_grad:
        raise ValueError(
            "the augmented image has no graph to theta, so theta would never move; "
            "augment with gradients enabled, or use plain_step where theta has no part"
        )
    return image


def _part(batch: int, fraction: float) -> slice:
    if not 0 < fraction <= 1:
        raise ValueError(f"synthetic_fraction must lie in (0, 1], not {fraction}")
    return slice(0, max(1, round(fraction * batch)))


def _grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    vectors: Tensor | Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
) -> list[Tensor]:
    """:func:`torch.autograd.grad`, with zeros for inputs that are not used."""
    return list(
        torch.autograd.grad(
            outputs, inputs, vectors, create_graph=create_graph, materialize_grads=True
        )
    )


def _real_gradient(
    real_loss: Callable[[Predict], Tensor], inner: _Inner, new: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Real loss at phi' and its gradient; the segmenter still holds phi."""
    leaves = [param.detach().requires_grad_() for param in new]
    loss = real_loss(inner.predict_at(leaves))
    return loss.detach(), _grad(loss, leaves)


@torch.no_grad()
def _assign(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(params), list(values))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norms = torch._foreach_norm([tensor.detach() for tensor in tensors])
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    return total
