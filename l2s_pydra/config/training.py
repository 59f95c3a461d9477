"""Settings of the training loop."""

import attrs
from attrs import validators

from ..values import count, positive, positive_or_none, share

__all__ = ["ESTIMATORS", "MODES", "TrainingConfig"]

MODES = (
    "learn2synth",
    "learn2synth-mixed",
    "synthseg",
    "supervised",
    "mixed",
    "mixed-randomised",
    "finetuned",
    "finetuned-averaged",
)
ESTIMATORS = ("auto", "exact", "one_sided_difference", "central_difference")


@attrs.frozen(kw_only=True)
class TrainingConfig:
    """The bilevel training loop (Hu et al., Learn2Synth, ICCV 2025, algorithm 1)."""

    mode: str = attrs.field(default="learn2synth", validator=validators.in_(MODES))
    """``learn2synth`` (the segmenter sees synthetic images only), ``synthseg`` (theta fixed),
    ``supervised`` (real images only), ``mixed`` (real and synthetic ones), ``mixed-randomised`` (the
    real ones partly with random contrast), ``learn2synth-mixed`` (the same, with a learned
    synthesis), ``finetuned`` (synthseg, then real images), ``finetuned-averaged`` (the mean of the
    weights before and after)."""
    steps: int = attrs.field(default=20000, validator=count)
    """Optimiser steps of phi."""
    batch_size: int = attrs.field(default=1, validator=count)
    """Synthetic (or, supervised, real) images per step."""
    real_batch_size: int = attrs.field(default=1, validator=count)
    """Real images per hypergradient."""
    micro_batch_size: int | None = attrs.field(default=None, validator=validators.optional(count))
    """Most images in one pass of the network; gradients are accumulated over the batch."""
    checkpoint_activations: bool = False
    """Keep fewer activations and compute them again in the backward passes: less memory, more
    time."""
    fit_memory: bool = True
    """Where a step does not fit into the free memory, compute activations again, pass micro-batches,
    and then crop, as far as these settings are not given."""
    compile: bool = False
    """Compile the segmenter (``torch.compile``) where passes are first-order."""
    loss: str = attrs.field(
        default="ce_dice", validator=validators.in_(("ce", "dice", "ce_dice", "logit_mse"))
    )
    """Segmentation loss of both levels."""
    optimizer: str = attrs.field(default="adam", validator=validators.in_(("adam", "adamw", "sgd")))
    """Update rule of phi."""
    learning_rate: float = attrs.field(default=1e-3, validator=positive)
    """Peak learning rate of phi."""
    schedule: str = attrs.field(default="cosine", validator=validators.in_(("cosine", "constant")))
    """Learning rate of phi over the steps."""
    beta2: float = attrs.field(
        default=0.99, validator=validators.and_(validators.ge(0), validators.lt(1))
    )
    """Decay of Adam's second moments (both kinds of Adam)."""
    weight_decay: float = attrs.field(default=0.0, validator=validators.ge(0))
    """L2 (sgd, adam) or decoupled (adamw) weight decay."""
    theta_learning_rate: float = attrs.field(default=3e-2, validator=positive)
    """Learning rate of theta (Adam, on the unconstrained parameters)."""
    theta_warmup_steps: int = attrs.field(default=300, validator=validators.ge(0))
    """Steps of phi before theta first moves."""
    theta_average: float = attrs.field(
        default=0.98, validator=validators.and_(validators.ge(0), validators.lt(1))
    )
    """Decay of the exponential average of theta's iterates."""
    phi_average: float = attrs.field(
        default=0.99, validator=validators.and_(validators.ge(0), validators.lt(1))
    )
    """Decay of the exponential average of phi's iterates, which is what is validated and kept."""
    estimator: str = attrs.field(default="auto", validator=validators.in_(ESTIMATORS))
    """How the hypergradient is computed; ``auto`` tries them on small crops and takes the cheapest
    that is right."""
    epsilon: float | None = attrs.field(default=None, validator=positive_or_none)
    """Norm of the parameters' displacement in the difference estimators; chosen by trial if not
    given."""
    estimator_tolerance: float = attrs.field(default=0.2, validator=positive)
    """Relative error up to which ``auto`` takes a difference estimator for right: little beside how
    much hypergradients differ from batch to batch."""
    hypergradient_every: int = attrs.field(default=1, validator=count)
    """k: a hypergradient at each learned draw whose step number is a multiple of k."""
    synthetic_fraction: float = attrs.field(
        default=1.0, validator=validators.and_(validators.gt(0), validators.le(1))
    )
    """q: fraction of the synthetic batch in the mixed derivative."""
    real_fraction: float = attrs.field(
        default=1.0, validator=validators.and_(validators.gt(0), validators.le(1))
    )
    """r: fraction of the real batch in the outer loss."""
    theta_gradient_clip: float | None = attrs.field(default=None, validator=positive_or_none)
    """Largest norm of theta's gradient; longer ones are scaled."""
    theta_trust: float | None = attrs.field(default=None, validator=positive_or_none)
    """Largest change of any entry of (unconstrained) theta in one step; longer steps are
    shortened."""
    gradient_clip: float | None = attrs.field(default=1.0, validator=positive_or_none)
    """Largest norm of the segmenter's gradient; longer ones are scaled, and the hypergradient
    takes this into account. Now and then a synthetic image has one twenty times the usual."""
    stop_after_skipped: int = attrs.field(default=25, validator=count)
    """Steps in a row without a finite loss and gradient (they are skipped) that end the run."""
    wide_share: float = attrs.field(default=0.85, validator=share)
    """Share of draws that keep the generator's wide ranges instead of A_theta, where theta is learned
    or given; only for augmentations that replace the generator's intensities (``contrast``)."""
    real_share: float = attrs.field(default=0.5, validator=share)
    """Share of steps on real images in the ``mixed`` modes."""
    remap_share: float = attrs.field(default=0.5, validator=share)
    """Share of real training images whose intensities are remapped at random, in the
    ``mixed-randomised`` and ``learn2synth-mixed`` modes."""
    learned_remap_share: float = attrs.field(default=0.0, validator=share)
    """Share of learned draws whose intensities are remapped at random, so that what is learned of
    one contrast serves others; theta does not move at these."""
    outer_remap_share: float = attrs.field(default=0.0, validator=share)
    """Share of the real images of the outer loss whose intensities are remapped at random."""
    finetune_share: float = attrs.field(
        default=0.25, validator=validators.and_(validators.gt(0), validators.lt(1))
    )
    """Share of steps, the last ones, on real images in the ``finetuned`` modes."""
    finetune_rate: float = attrs.field(default=0.3, validator=positive)
    """Peak learning rate of these steps, as a share of the learning rate."""
    max_minutes: float | None = attrs.field(default=None, validator=positive_or_none)
    """Time after which training ends; the learning rate decays accordingly."""
    patience: int | None = attrs.field(default=None, validator=validators.optional(count))
    """Validations without a better one after which training ends."""
    own_label_share: float = attrs.field(default=0.95, validator=share)
    """Share of draws made from the learning participants' own label maps."""
    validate_every: int = attrs.field(default=500, validator=count)
    """Steps between two validations."""
    checkpoint_every: int = attrs.field(default=500, validator=count)
    """Steps between two checkpoints."""
    synthesis_device: str = attrs.field(default="auto", validator=validators.in_(("auto", "cpu")))
    """Where images are synthesised: where the networks are, or on the CPU, ahead of a GPU."""
    precision: str = attrs.field(default="bf16", validator=validators.in_(("fp32", "bf16")))
    """Autocast type of the segmenter."""
    seed: int = attrs.field(default=0, validator=validators.ge(0))
    """Seed of everything random."""
