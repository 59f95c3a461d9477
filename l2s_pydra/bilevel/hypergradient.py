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

The estimators differ in how they compute the last gradient, with respect to the image:
:class:`Exact` differentiates the gradient; :class:`CentralDifference` and
:class:`OneSidedDifference` compare image gradients at displaced :math:`\phi`, which takes
first-order passes only. :func:`~l2s_pydra.bilevel.self_check.choose_estimator` tells which of
them is right for a given network, loss and precision.

What the segmenter must be
--------------------------
Any module that is a deterministic function of its parameters and its input: no dropout. Batch
norm in training mode is such a function of the batch: the hypergradient is then exact for a real
loss that normalises the real images by their own statistics. The buffers of the module (running
statistics) follow the synthetic pass only, never the real images. In evaluation mode the running
statistics are constants to the hypergradient, though they did depend on theta. Autocast, if any,
belongs inside the losses.

References
----------
Hu et al., Learn2Synth, ICCV 2025 (the two levels); Liu et al., DARTS, ICLR 2019 (the mixed
derivative as a difference of first-order gradients).
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call

from .move import Move, Rule
from .passes import (
    Losses,
    Reduce,
    SyntheticLoss,
    SyntheticPass,
    apply_clip,
    clip_factor,
    copied_buffers,
    differentiate_clip,
    gradients,
    kept_buffers,
    norm_of,
    trainable,
)
from .plain import PlainStep, accumulate, are_finite, average, plain_step

__all__ = [
    "BilevelStep",
    "CentralDifference",
    "Exact",
    "Hypergradient",
    "OneSidedDifference",
    "PlainStep",
    "plain_step",
]


@attrs.frozen(kw_only=True)
class BilevelStep:
    """What one step of the two levels leaves behind, beside the updated segmenter."""

    synthetic_loss: Tensor
    """() tensor, at phi."""
    real_loss: Tensor
    """() tensor, at phi'; NaN if the step was skipped."""
    theta_gradient: list[Tensor]
    """Hypergradient, in the order and shapes of theta; zeros where an entry has no effect and
    after a skipped step. Not finite where the real loss was not."""
    state: dict[str, Any]
    """State of the update rule after the step."""
    gradient_norm: Tensor
    """() tensor, Euclidean norm of the synthetic gradient, before clipping."""
    skipped: bool
    """True if the synthetic loss or its gradient was not finite: nothing was changed."""


class Hypergradient(abc.ABC):
    """A way to differentiate the real loss with respect to theta.

    Beside what plain training needs, one copy of the parameters is held (the gradient during the
    real pass, the updated parameters during the mixed derivative), and for a moment between
    passes a few more, when no activations are.
    """

    first_order: ClassVar[bool]
    """Whether all passes are first-order, so that the segmenter may be compiled."""

    def __call__(
        self,
        segmenter: nn.Module,
        rule: Rule,
        state: dict[str, Any],
        *,
        augment: Callable[[], Tensor],
        synthetic_loss: SyntheticLoss,
        real_loss: Losses,
        theta: Sequence[Tensor],
        learning_rate: float,
        synthetic_fraction: float = 1.0,
        micro_batch: int | None = None,
        max_gradient_norm: float | None = None,
        reduce: Reduce | None = None,
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
            ``synthetic_loss(predict, x, part)``: :math:`\ell_s` of the images ``part`` (a slice)
            of the batch, a mean over them; ``x`` holds just these images.
        real_loss : callable or sequence of callables
            ``real_loss(predict)``: :math:`\ell_r`; of several, the *sum* is, and each has a pass
            of its own (micro-batches: scale them).
        theta : sequence of Tensor
            What to differentiate with respect to.
        learning_rate : float
            Of this step of :math:`\phi`.
        synthetic_fraction : float, default=1
            q, share of the synthetic batch in the mixed derivative (its first images, at least
            one); the result then estimates that of the whole batch.
        micro_batch : int, optional
            Largest number of synthetic images in one pass of the network; gradients are
            accumulated over the passes.
        max_gradient_norm : float, optional
            Longer synthetic gradients are scaled to this Euclidean norm before the update, which
            the hypergradient takes into account.
        reduce : callable, optional
            Replaces a list of tensors, in place, by their mean over the processes of a
            data-parallel run.

        Returns
        -------
        BilevelStep

        Raises
        ------
        ValueError
            If the augmented image does not depend on ``theta``, or an option is out of range.
        """
        image = _augmented(augment)
        synthetic = SyntheticPass(
            segmenter=segmenter,
            params=trainable(segmenter),
            image=image,
            loss=synthetic_loss,
            part=_part(len(image), synthetic_fraction),
            micro_batch=_size(micro_batch, len(image)),
        )
        phi = list(synthetic.params.values())
        restore_buffers = copied_buffers(segmenter)
        loss, grads, kept = self._differentiate(synthetic)
        average(reduce, [loss, *grads])
        gradient_norm = norm_of(grads)
        if not are_finite(loss, gradient_norm):
            restore_buffers()
            return BilevelStep(
                synthetic_loss=loss,
                real_loss=torch.full_like(loss, torch.nan),
                theta_gradient=[torch.zeros_like(t, requires_grad=False) for t in theta],
                state=state,
                gradient_norm=gradient_norm,
                skipped=True,
            )
        clip = clip_factor(gradient_norm, max_gradient_norm)
        apply_clip(grads, clip)
        move = Move(rule, phi, state, learning_rate)
        move.take(grads, in_place=not self._stays(synthetic))
        with kept_buffers(segmenter):
            outer, u = self._real_gradient(synthetic, move, real_loss)
            average(reduce, [outer, *u])
            move.pull_back(u, grads)
            differentiate_clip(u, grads, gradient_norm, clip)
            direction = self._mixed(synthetic, move, grads, u, kept)
            move.to_new()
        del u, kept
        theta_gradient = gradients(image[synthetic.part], theta, direction)
        average(reduce, theta_gradient)
        return BilevelStep(
            synthetic_loss=loss,
            real_loss=outer,
            theta_gradient=theta_gradient,
            state=move.state,
            gradient_norm=gradient_norm,
            skipped=False,
        )

    @abc.abstractmethod
    def _differentiate(self, synthetic: SyntheticPass) -> tuple[Tensor, list[Tensor], Any]:
        """Return the synthetic loss, its gradient, and what is kept for :meth:`_mixed`."""

    def _stays(self, synthetic: SyntheticPass) -> bool:
        """Whether the segmenter must hold phi until the mixed derivative is there."""
        return False

    def _real_gradient(
        self, synthetic: SyntheticPass, move: Move, real_loss: Losses
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the real loss at phi' and its gradient."""
        return accumulate(real_loss, synthetic.predict, move.params)

    @abc.abstractmethod
    def _mixed(
        self,
        synthetic: SyntheticPass,
        move: Move,
        grads: list[Tensor],
        u: list[Tensor],
        kept: Any,
    ) -> Tensor:
        """Return the gradient of <gradient, u> with respect to the images ``synthetic.part``.

        May overwrite ``grads`` and ``u``.
        """


@attrs.frozen
class Exact(Hypergradient):
    """Differentiates the gradient itself: a vector-Jacobian product through its graph.

    Right to rounding for every architecture that autograd differentiates twice; about twice the
    memory of a plain step, and neither compiled nor fused kernels.

    Parameters
    ----------
    recompute : bool, default=False
        Run the synthetic pass once more for the mixed derivative instead of keeping its graph over
        the real pass: about 3 more forward passes of time, and needed with activation checkpoints
        inside the segmenter.
    full_precision : bool, default=False
        Run all passes without autocast.
    """

    recompute: bool = False
    full_precision: bool = False
    first_order: ClassVar[bool] = False

    def _stays(self, synthetic: SyntheticPass) -> bool:
        return synthetic.in_one_piece and not self.recompute

    def _differentiate(self, synthetic: SyntheticPass) -> tuple[Tensor, list[Tensor], Any]:
        synthetic.full_precision = self.full_precision
        if not self._stays(synthetic):
            loss, grads, _ = synthetic.differentiate(with_image=False)
            return loss, grads, None
        leaf = synthetic.leaf(synthetic.part)
        loss = synthetic.evaluate(leaf, synthetic.part)
        graph = gradients(loss, list(synthetic.params.values()), create_graph=True)
        return loss.detach(), [g.detach().clone() for g in graph], (graph, leaf)

    def _real_gradient(
        self, synthetic: SyntheticPass, move: Move, real_loss: Losses
    ) -> tuple[Tensor, list[Tensor]]:
        if not self._stays(synthetic):
            return super()._real_gradient(synthetic, move, real_loss)
        # The graph of the synthetic gradient holds the segmenter's parameters: they stay at phi.
        assert move.waiting is not None
        leaves = [param.detach().requires_grad_() for param in move.waiting]
        replaced = dict(zip(synthetic.params, leaves, strict=True))
        return accumulate(
            real_loss,
            synthetic.wrapped(lambda x: functional_call(synthetic.segmenter, replaced, (x,))),
            leaves,
        )

    def _mixed(
        self,
        synthetic: SyntheticPass,
        move: Move,
        grads: list[Tensor],
        u: list[Tensor],
        kept: Any,
    ) -> Tensor:
        if kept is not None:
            graph, leaf = kept
            return gradients(graph, [leaf], u)[0]
        with move.at_old(grads):
            return synthetic.contracted(u)


@attrs.frozen
class CentralDifference(Hypergradient):
    r"""Difference of the image gradients on both sides of :math:`\phi`.

    .. math::
        \nabla_{\tilde x}\frac{d}{d\varepsilon} L(S_{\phi+\varepsilon u}(\tilde x)) \approx
        \frac{\|u\|}{2\epsilon}\left[\nabla_{\tilde x} L(S_{\phi + \epsilon u/\|u\|}(\tilde x))
        - \nabla_{\tilde x} L(S_{\phi - \epsilon u/\|u\|}(\tilde x))\right]

    Two first-order passes with respect to the image, at the memory of a plain step. The error is
    of order :math:`\epsilon^2` plus rounding over :math:`\epsilon`; for smooth activations 1e-5 to
    1e-3.

    Parameters
    ----------
    epsilon : float, default=1e-2
        :math:`\epsilon`, norm of the displacement of :math:`\phi`.
    full_precision : bool, default=False
        Run the two passes without autocast, whatever the losses ask for: half-precision gradients
        through normalisation layers differ by more than the displacement changes them.
    """

    epsilon: float = attrs.field(default=1e-2, validator=attrs.validators.gt(0))
    full_precision: bool = False
    first_order: ClassVar[bool] = True

    def _differentiate(self, synthetic: SyntheticPass) -> tuple[Tensor, list[Tensor], Any]:
        loss, grads, _ = synthetic.differentiate(with_image=False)
        return loss, grads, None

    def _mixed(
        self,
        synthetic: SyntheticPass,
        move: Move,
        grads: list[Tensor],
        u: list[Tensor],
        kept: Any,
    ) -> Tensor:
        synthetic.full_precision = self.full_precision
        norm = norm_of(u)
        scale = _scale(norm, self.epsilon)
        with move.displaced([part.clone() for part in u], grads, scale):
            ahead = synthetic.image_gradient()
            with torch.no_grad():
                torch._foreach_mul_(u, 2 * scale)
                torch._foreach_sub_(list(move.params), u)
            behind = synthetic.image_gradient()
        return ahead.sub_(behind).mul_(norm / (2 * self.epsilon))


@attrs.frozen
class OneSidedDifference(Hypergradient):
    r"""Difference of two image gradients, at :math:`\phi` and at a displaced :math:`\phi`.

    .. math::
        \nabla_{\tilde x}\frac{d}{d\varepsilon} L(S_{\phi+\varepsilon u}(\tilde x)) \approx
        \frac{\|u\|}{\epsilon}\left[\nabla_{\tilde x} L(S_{\phi + \epsilon u/\|u\|}(\tilde x))
        - \nabla_{\tilde x} L(S_\phi(\tilde x))\right]

    The second term is a by-product of the synthetic backward pass, so one first-order pass is all
    it costs, at the memory of a plain step; autocast and compiled kernels work. The error is of
    order :math:`\epsilon` plus rounding over :math:`\epsilon`; for smooth activations 1e-3 to 2e-2,
    and of order one where many kinks are crossed together (ReLU with instance norm).

    Parameters
    ----------
    epsilon : float, default=1e-2
        :math:`\epsilon`, norm of the displacement of :math:`\phi`.
    """

    epsilon: float = attrs.field(default=1e-2, validator=attrs.validators.gt(0))
    first_order: ClassVar[bool] = True

    def _differentiate(self, synthetic: SyntheticPass) -> tuple[Tensor, list[Tensor], Any]:
        return synthetic.differentiate(with_image=True)

    def _mixed(
        self,
        synthetic: SyntheticPass,
        move: Move,
        grads: list[Tensor],
        u: list[Tensor],
        kept: Any,
    ) -> Tensor:
        norm = norm_of(u)
        with move.displaced(u, grads, _scale(norm, self.epsilon)):
            there = synthetic.image_gradient()
        return there.sub_(kept).mul_(norm / self.epsilon)


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


def _size(micro_batch: int | None, batch: int) -> int:
    if micro_batch is not None and micro_batch < 1:
        raise ValueError(f"micro_batch must be a whole number above 0, not {micro_batch}")
    return min(micro_batch or batch, batch)


def _scale(norm: Tensor, length: float) -> Tensor:
    """Return what brings a vector of this norm to this length."""
    # Where u is 0 it stays 0, and so does what is multiplied by the norm afterwards.
    return length / norm.clamp_min(torch.finfo(norm.dtype).tiny)
