"""Settings of the generator."""

from collections.abc import Mapping

import attrs
from attrs import validators

from ..errors import ConfigError
from ..values import count, level_pair, positive, positive_or_none, prior_table, share, sides

__all__ = ["REPEAT_SHARE", "SynthesisConfig"]

REPEAT_SHARE = 0.12
"""The outermost slices of a slab are repeated over this share of the longest side at most, so that
small heads are not drawn out as far as large ones."""


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
    """How far the slab's outermost slices are repeated beyond it, mm (12 % of the longest side at
    most); black from there. The same is done with scans of few slices that are segmented; 0 is
    never."""
    oversampling: int = attrs.field(default=2, validator=validators.in_((1, 2, 3, 4)))
    """Labels are warped on a grid this many times finer than the working one, then pooled,
    so that partial volume exists."""

    def __attrs_post_init__(self) -> None:
        most = self.coverage_most_mm
        if most is not None and most < self.coverage_least_mm:
            raise ConfigError(
                f"SynthesisConfig: coverage_most_mm, {most:g}, is below coverage_least_mm, "
                f"{self.coverage_least_mm:g}; give both"
            )
