"""Settings: frozen attrs classes, to and from JSON.

The same JSON goes to the builders, beside the weights, into provenance and into Pydra's hash.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs import validators

from .errors import ConfigError
from .jsonfiles import read_json
from .plugins import is_plugin, plugin_code
from .values import (
    count,
    level_pair,
    positive,
    positive_or_none,
    prior_table,
    share,
    sides,
    theta_table,
)

__all__ = [
    "AugmentationConfig",
    "LearnConfig",
    "SegmenterConfig",
    "SynthesisConfig",
    "TrainingConfig",
    "preset",
]

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
PRESETS = ("quick", "default", "paper")
_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class SynthesisConfig:
    """Ranges of the generator G (Billot et al., SynthSeg, MedIA 2023, section 3 and table 1).

    Defaults have the effect of those of the published training code where it has the parameter;
    intensities are on the scale of the rendered image, [0, 1]. Translation, ghosts, movements, noise
    and lesions are additions.
    """

    rotation_deg: float = attrs.field(default=15.0, validator=validators.ge(0))
    """Rotation about each axis ~ U(-r, r), degrees."""
    scaling: float = attrs.field(
        default=0.2, validator=validators.and_(validators.ge(0), validators.lt(1))
    )
    """Scaling along each axis ~ U(1-s, 1+s)."""
    shearing: float = attrs.field(default=0.012, validator=validators.ge(0))
    """Shears ~ U(-s, s)."""
    translation_mm: float = attrs.field(default=10.0, validator=validators.ge(0))
    """Translation along each axis ~ U(-t, t), mm."""
    flip: float = attrs.field(default=0.5, validator=share)
    """Probability of a left-right flip (labels of the two sides are exchanged)."""
    nonlinear_std_mm: float = attrs.field(default=6.5, validator=validators.ge(0))
    """Largest standard deviation of the control points' displacement, mm; drawn ~ U(0, s). A third
    of it arrives in voxels (cubic B-spline, 3-D), as much as of SynthSeg's 4 mm (linear)."""
    nonlinear_spacing_mm: float = attrs.field(default=25.0, validator=positive)
    """Distance of the control points, mm."""
    mean_range: tuple[float, float] = attrs.field(default=(0.0, 1.0), converter=level_pair)
    """Mean intensity of a label group ~ U(low, high)."""
    std_range: tuple[float, float] = attrs.field(default=(0.0, 0.1), converter=level_pair)
    """Standard deviation of a label group's working voxels ~ U(low, high) (25 of 255)."""
    priors: Mapping[str, tuple[float, float, float, float]] = attrs.field(
        factory=dict, converter=prior_table
    )
    """Group name to mean and standard deviation of its mean, and of its standard deviation, over
    images; groups that are not named keep the ranges above."""
    prior_free_share: float = attrs.field(default=0.25, validator=share)
    """Share of images that keep the ranges although there are priors."""
    subclusters: int = attrs.field(default=1, validator=count)
    """Clusters of intensity that each label of the learning participants is split into, where it
    has enough voxels; each has a distribution of its own (Zalevskyi et al., FetalSynthSeg, MICCAI
    2024)."""
    channels: int = attrs.field(default=1, validator=count)
    """Contrasts of one head that are drawn together."""
    crop: tuple[int, ...] | None = attrs.field(default=None, converter=sides)
    """Size of a random crop, working voxels; the whole grid if not given."""
    background_share: float = attrs.field(default=0.5, validator=share)
    """Probability that tissue outside the segmented structures is drawn at all, where the learning
    images are skull-stripped."""
    strip_share: float = attrs.field(default=0.0, validator=share)
    """Probability that it is left out, where they are not."""
    strip_margin_mm: float = attrs.field(default=6.0, validator=validators.ge(0))
    """How much of it then stays around the structures ~ U(0, m), mm."""
    lesion_share: float = attrs.field(default=0.0, validator=share)
    """Share of images with lesion-like blobs, in one of the structures' group of most voxels."""
    lesion_count: int = attrs.field(default=8, validator=count)
    """Most blobs in one image."""
    lesion_radius_mm: float = attrs.field(default=6.0, validator=positive)
    """Largest radius of a blob, mm."""
    bias_std: float = attrs.field(default=1.15, validator=validators.ge(0))
    """Largest standard deviation of the logarithm of the bias field's spline coefficients; drawn
    ~ U(0, s). A third of it arrives in the field (3-D; half in 2-D), as much as of SynthSeg's 0.7."""
    bias_spacing_mm: float = attrs.field(default=40.0, validator=positive)
    """Distance of the bias field's control points, mm."""
    gamma_std: float = attrs.field(default=0.5, validator=validators.ge(0))
    """Standard deviation of log gamma."""
    ghost_share: float = attrs.field(default=0.05, validator=share)
    """Share of images with periodic ghosts."""
    ghost_strength: float = attrs.field(default=0.4, validator=validators.ge(0.05))
    """Largest relative modulation of k-space lines; drawn ~ U(0.05, s)."""
    motion_share: float = attrs.field(default=0.05, validator=share)
    """Share of images whose head moved while k-space was filled."""
    motion_deg: float = attrs.field(default=5.0, validator=validators.ge(0))
    """Rotations of a movement ~ U(-r, r), degrees."""
    motion_mm: float = attrs.field(default=3.0, validator=validators.ge(0))
    """Translations of a movement ~ U(-t, t), mm."""
    resolution_share: float = attrs.field(default=0.95, validator=share)
    """Share of images whose resolution is lowered."""
    isotropic_share: float = attrs.field(default=0.1, validator=share)
    """Share of these in which it is lowered alike along all axes, rather than along one."""
    spacing_isotropic_mm: float = attrs.field(default=4.0, validator=validators.ge(0))
    """Voxel size where it is lowered alike ~ U(working spacing, r), mm."""
    spacing_slices_mm: float = attrs.field(default=8.0, validator=validators.ge(0))
    """Distance of slices along one random axis ~ U(working spacing, r), mm. They are between one
    working voxel and this distance thick."""
    noise_std: float = attrs.field(default=0.04, validator=validators.ge(0))
    """Largest standard deviation of added noise; drawn ~ U(0, s)."""
    rician_share: float = attrs.field(default=0.5, validator=share)
    """Share of images that are magnitudes, with Rician noise; Gaussian in the others."""
    coverage_share: float = attrs.field(default=0.0, validator=share)
    """Share of images of which only a slab across one random axis is seen, as of a scan that does not
    cover the head."""
    coverage_least_mm: float = attrs.field(default=15.0, validator=positive)
    """Least thickness of the slab, mm; drawn ~ U(m, most)."""
    coverage_most_mm: float | None = attrs.field(default=None, validator=positive_or_none)
    """Most thickness of the slab, mm; the size of the image if not given."""
    coverage_repeat_mm: float = attrs.field(default=16.0, validator=validators.ge(0))
    """How far the slab's outermost slices are repeated beyond it, mm, as is done with scans of few
    slices that are to be segmented; black from there."""
    oversampling: int = attrs.field(default=2, validator=validators.in_((1, 2, 3, 4)))
    """Labels are warped on a grid this many times finer than the working one, then pooled,
    so that partial volume exists."""


@attrs.frozen(kw_only=True)
class SegmenterConfig:
    """The segmenter S_phi: a U-Net (Ronneberger et al., 2015)."""

    ndim: int = attrs.field(default=3, validator=validators.in_((2, 3)))
    """2 or 3."""
    width: int = attrs.field(default=16, validator=[count, validators.le(4096)])
    """Channels of the first level; doubled at each level."""
    depth: int = attrs.field(default=4, validator=[count, validators.le(10)])
    """Number of levels."""
    max_width: int = attrs.field(default=384, validator=[count, validators.le(65536)])
    """Channels never exceed this."""
    convolutions: int = attrs.field(default=2, validator=[count, validators.le(16)])
    """Convolutions per level on each side."""
    activation: str = attrs.field(default="elu", validator=validators.in_(("elu", "gelu", "relu")))
    """Nonlinearity (the paper: ELU)."""
    norm: str = attrs.field(default="none", validator=validators.in_(("none", "instance", "group")))
    """Normalisation (the paper: none)."""
    pooling: str = attrs.field(default="average", validator=validators.in_(("average", "max")))
    """Between levels; maxima have kinks that the difference estimators do not see through."""
    coordinates: bool = False
    """Append centred voxel coordinates to the input."""
    subvoxel: int = attrs.field(default=1, validator=validators.in_((1, 2, 3, 4)))
    """Blocks of this many voxels per axis are folded into channels before the U-Net and unfolded
    after it: the network works on a coarser grid and still segments every voxel."""


@attrs.frozen(kw_only=True)
class AugmentationConfig:
    """The learned augmentation A_theta, by name, with its starting values."""

    name: str = "contrast"
    """Module of :mod:`l2s_pydra.augmentation`, or of another package: ``mypackage.fog``."""
    options: Mapping[str, Any] = attrs.field(factory=dict, converter=dict)
    """Keyword arguments of its builder."""
    code: str | None = None
    """Name and checksum of a module of another package, filled in when settings are made."""

    theta: Mapping[str, float] | None = attrs.field(default=None, converter=theta_table)
    """Values of theta, by the names in ``theta.json``. Where theta is learned, it starts there and not
    at what the learning scans show; in all other modes with synthetic images it stays there, for a
    share ``1 - training.wide_share`` of these."""

    def __attrs_post_init__(self) -> None:
        code = self.code if is_plugin(self.name) else None
        if is_plugin(self.name) and not str(code).startswith(f"{self.name}@"):
            code = plugin_code(self.name, kind="augmentation")
        object.__setattr__(self, "code", code)

    def check_code(self) -> None:
        """Check that a module of another package is what it was when the settings were made.

        Raises
        ------
        ConfigError
            If it has changed since.
        """
        if self.code and plugin_code(self.name, kind="augmentation") != self.code:
            raise ConfigError(
                f"augmentation {self.name!r} is not what it was when these settings were made; "
                "bring that version back, or set augmentation.code to null"
            )


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


def _nested(kind: type) -> Any:
    return attrs.field(
        factory=kind,
        converter=lambda v: _structure(kind, v),
        validator=validators.instance_of(kind),
    )


@attrs.frozen(kw_only=True)
class LearnConfig:
    """Everything that decides what a training run computes, except the data."""

    spacing_mm: float = attrs.field(default=1.0, validator=positive)
    """Voxel size of the working grid, mm, isotropic."""
    synthesis: SynthesisConfig = _nested(SynthesisConfig)
    """The generator."""
    segmenter: SegmenterConfig = _nested(SegmenterConfig)
    """The network."""
    augmentation: AugmentationConfig = _nested(AugmentationConfig)
    """The learned augmentation."""
    training: TrainingConfig = _nested(TrainingConfig)
    """The loop."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LearnConfig":
        """Build from nested dicts, as :meth:`to_dict` writes them.

        Raises
        ------
        ConfigError
            If a setting is unknown or out of range.
        """
        return _structure(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain values."""
        return attrs.asdict(self)

    def to_json(self) -> str:
        """JSON, sorted and indented."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> "LearnConfig":
        """Read the JSON that :meth:`to_json` writes.

        Raises
        ------
        ConfigError
            If the file is unreadable, or a setting is unknown or out of range.
        """
        try:
            values = read_json(path)
            return cls.from_dict(values)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be used as a configuration ({error})") from error

    def evolve(self, **changes: Any) -> "LearnConfig":
        """Copy with changes; nested settings are spelled ``section__name``.

        Raises
        ------
        ConfigError
            If a setting is unknown or out of range.

        Examples
        --------
        >>> LearnConfig().evolve(spacing_mm=2, training__steps=10).training.steps
        10
        """
        values = self.to_dict()
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            if section and not isinstance(values.get(section), dict):
                raise ConfigError(f"unknown section {section!r} in {type(self).__name__}")
            (values[section] if section else values)[name] = value
        return self.from_dict(values)


def _structure(kind: type[_T], values: Any) -> _T:
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{kind.__name__}: settings by name are expected, not {values!r}")
    names = {field.name for field in attrs.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(
            f"unknown setting {unknown[0]!r} in {kind.__name__}; available: {', '.join(sorted(names))}"
        )
    try:
        return kind(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        message = str(error.args[0]) if error.args else str(error)
        raise ConfigError(f"{kind.__name__}: {message}") from error


def preset(name: str, *, ndim: int | None = None) -> LearnConfig:
    """Named settings.

    ``quick`` trains on a CPU in well under an hour; ``default`` is for one GPU or a patient CPU;
    ``paper`` has the settings of Hu et al. (ICCV 2025, section 4): 2-D, ELU U-Net without
    normalisation, Adam at both levels.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    ndim = ndim or (2 if name == "paper" else 3)
    config = LearnConfig().evolve(segmenter__ndim=ndim)
    if name == "default":
        return config.evolve(
            segmenter__width=24,
            segmenter__depth=5,
            synthesis__oversampling=1,  # label maps are seldom finer than 1 mm
            training__batch_size=1 if ndim == 3 else 16,
            training__real_batch_size=1 if ndim == 3 else 16,
        )
    if name == "quick":
        # A short training cannot take the full ranges in.
        return config.evolve(
            spacing_mm=2.5,
            synthesis__nonlinear_std_mm=4.0,
            synthesis__bias_std=0.6,
            synthesis__bias_spacing_mm=50.0,
            synthesis__gamma_std=0.4,
            synthesis__ghost_share=0.0,
            synthesis__motion_share=0.0,
            synthesis__resolution_share=0.5,
            synthesis__isotropic_share=0.0,
            synthesis__spacing_slices_mm=6.0,
            synthesis__rician_share=0.0,
            training__steps=4000,
            training__own_label_share=1.0,
            training__validate_every=250,
            training__checkpoint_every=250,
            training__batch_size=1 if ndim == 3 else 8,
            training__real_batch_size=1 if ndim == 3 else 8,
        )
    if name == "paper":
        return config.evolve(
            segmenter__ndim=ndim,
            segmenter__width=24,
            segmenter__depth=5,
            training__batch_size=64 if ndim == 2 else 1,
            training__real_batch_size=64 if ndim == 2 else 1,
            training__loss="dice",
            training__learning_rate=1e-4,
            training__schedule="constant",
            training__steps=60000,
            training__wide_share=0.0,
            training__precision="fp32",
            training__gradient_clip=None,
            training__beta2=0.999,
            training__estimator="exact",
            augmentation__name="noise_bias",
        )
    raise ConfigError(f"unknown preset {name!r}; available: {', '.join(PRESETS)}")


def field_doc(kind: type, name: str) -> str:
    """Return the docstring written under a field of a config class.

    Task and interface specifications take their help texts from here.
    """
    import inspect
    import re

    source = inspect.getsource(kind)
    match = re.search(rf'^    {name}:.*?\n    """(.*?)"""', source, re.S | re.M)
    return " ".join(match.group(1).split()) if match else ""
