"""The generator G: draw random parameters, render the image they describe.

Drawing and rendering are separate: a :class:`SynthesisDraw` is a record that can be stored as JSON,
shown and replayed; the same draw gives the same image.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from ..config import SynthesisConfig
from ..errors import LabelError
from ..normalisation import normalise
from . import deformation, intensity

__all__ = ["GenerationLabels", "Sample", "SynthesisDraw", "Synthesizer"]


@attrs.frozen(kw_only=True, eq=False)
class GenerationLabels:
    """What the values of the label maps mean for synthesis and for segmentation.

    Generation labels may be finer than segmentation labels: CSF and skull have an intensity of
    their own and are background to the segmenter.
    """

    group: Tensor = attrs.field()
    """(L,) integer: intensity group of each generation label; 0 is outside, which is always black."""
    channel: Tensor
    """(L,) int64: channel of the segmentation of each generation label."""
    group_names: tuple[str, ...]
    """Name of each group; the first is ``outside``."""
    swap: Tensor
    """(L,) integer: the generation label on the other side of the body."""
    n_channels: int
    """Number of segmentation classes, background included."""

    @group.validator
    def _check(self, _: Any, value: Tensor) -> None:
        if int(value[0]) != 0:
            raise LabelError("generation label 0 must be in group 0 (outside)")


@attrs.frozen(kw_only=True, eq=False)
class SynthesisDraw:
    """Everything random of one synthetic image; voxels are those of the fine grid."""

    seed: int
    """Seed of the noise."""
    label_map: int
    """Which label map."""
    flip: bool
    """Whether left and right are exchanged."""
    matrix: Tensor
    """(ndim, ndim) linear part of the affine."""
    translation: Tensor
    """(ndim,) voxels."""
    displacement: Tensor
    """(ndim, *nodes) B-spline coefficients, voxels."""
    background: bool
    """Whether background tissue (group above 0, channel 0) is rendered."""
    means: Tensor
    """(G,) mean of each group."""
    stds: Tensor
    """(G,) standard deviation of each group's working voxels."""
    gamma: float
    """Exponent."""
    log_bias: Tensor
    """(*nodes,) B-spline coefficients of the log bias field."""
    thickness_axis: int
    """Axis of the slices."""
    thickness: float
    """Slice thickness in working voxels; 1 leaves the image alone."""
    noise_std: float
    """Standard deviation of the added noise."""

    def to_json(self) -> str:
        """JSON that :meth:`from_json` reads back exactly."""
        values = {
            key: value.tolist() if isinstance(value, Tensor) else value
            for key, value in attrs.asdict(self, recurse=False).items()
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "SynthesisDraw":
        """Read what :meth:`to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        tensors = {k: torch.tensor(v) for k, v in values.items() if isinstance(v, list)}
        return cls(**(values | tensors))


@attrs.frozen(kw_only=True, eq=False)
class Sample:
    """A batch of synthetic images and what they were made of."""

    image: Tensor
    """(B, 1, *S) finished image, about [0, 1]."""
    target: Tensor
    """(B, K, *S) share of each class in each voxel."""
    groups: Tensor
    """(B, *F) group of each voxel of the fine grid."""
    draws: tuple[SynthesisDraw, ...]
    """One per image."""
    group_names: tuple[str, ...]
    """Name of each group."""
    oversampling: int
    """Fine voxels per working voxel and axis."""
    silent_outside: bool = False
    """Whether noise stops at the border of the tissue, as in skull-stripped images."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seed of each image."""
        return tuple(draw.seed for draw in self.draws)

    def noise(self, *, fine: bool = False, stream: int = 0) -> Tensor:
        """Draw standard normal numbers that depend on the seeds and ``stream`` only.

        Noise on the working grid is 0 outside the tissue if :attr:`silent_outside`.

        Returns
        -------
        (B, 1, *S) tensor, or (B, 1, *F) if ``fine``
        """
        shape = self.groups.shape[1:] if fine else self.image.shape[2:]
        noise = [_normal(seed, stream + (1000 if fine else 0), shape) for seed in self.seeds]
        drawn = torch.stack(noise)[:, None].to(self.image.device)
        return drawn * self._tissue() if self.silent_outside and not fine else drawn

    def _tissue(self) -> Tensor:
        """(B, 1, *S): whether a voxel holds any tissue."""
        share = intensity.pool((self.groups > 0)[:, None].float(), self.oversampling)
        return (share > 0).float()

    def finish(self, fine: Tensor) -> Tensor:
        """Do what the generator does after the Gaussian mixture: pool, gamma, bias, thick slices.

        Differentiable; adds no noise and does not normalise.

        Parameters
        ----------
        fine : (B, 1, *F) tensor

        Returns
        -------
        (B, 1, *S) tensor
        """
        return _appearance(intensity.pool(fine, self.oversampling), self.draws)

    @staticmethod
    def normalise(image: Tensor) -> Tensor:
        """Rescale each image robustly to about [0, 1]; see :func:`l2s_pydra.normalisation.normalise`."""
        return normalise(image)


def _appearance(x: Tensor, draws: Sequence[SynthesisDraw]) -> Tensor:
    """Gamma, bias field and thick slices of images (B, 1, *S) on the working grid."""
    x = intensity.gamma(x, [draw.gamma for draw in draws])
    images = []
    for image, draw in zip(x, draws, strict=True):
        if bool(draw.log_bias.any()):
            log_bias = deformation.upsample(draw.log_bias[None].to(image), x.shape[2:])
            image = image * log_bias.exp()
        if draw.thickness > 1:
            image = intensity.thick_slices(image[None], draw.thickness_axis, draw.thickness)[0]
        images.append(image)
    return torch.stack(images)


def _normal(seed: int, stream: int, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + stream) % 2**63)
    return torch.randn(tuple(shape), generator=generator)


@attrs.frozen(kw_only=True, eq=False)
class Synthesizer:
    """Synthetic images from label maps.

    Parameters
    ----------
    label_maps : list of (*F,) integer tensors
        Generation labels on the fine grid, all of one shape, in RAS orientation (axis 0 from left
        to right); uint8 if there are few enough.
    labels : GenerationLabels
        What the values mean.
    config : SynthesisConfig
        The ranges.
    spacing_mm : float
        Voxel size of the working grid.
    background_always : bool
        Whether background tissue is always rendered (the learning images show it).

    References
    ----------
    Billot et al., SynthSeg, Medical Image Analysis 2023, section 3.
    """

    label_maps: Sequence[Tensor]
    labels: GenerationLabels
    config: SynthesisConfig
    spacing_mm: float
    background_always: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the fine grid."""
        return tuple(self.label_maps[0].shape)

    @property
    def fine_spacing_mm(self) -> float:
        """Voxel size of the fine grid."""
        return self.spacing_mm / self.config.oversampling

    def draw(
        self, seed: int, *, label_map: int | None = None, appearance: bool = True
    ) -> SynthesisDraw:
        """Draw the parameters of one image.

        Parameters
        ----------
        seed : int
            Decides everything.
        label_map : int, optional
            Which label map; drawn if not given.
        appearance : bool, default=True
            Whether to draw gamma, bias field and noise; otherwise they are neutral, for an
            augmentation that brings its own.
        """
        rng = np.random.default_rng([seed, 77])
        c = self.config
        which = int(rng.integers(len(self.label_maps)))
        groups = len(self.labels.group_names)
        means, stds = rng.uniform(*c.mean_range, groups), rng.uniform(*c.std_range, groups)
        means[0] = stds[0] = 0
        strength = rng.uniform(0, c.bias_std) if appearance else 0.0
        size = [n / c.oversampling for n in self.shape]
        nodes = deformation.control_shape(
            [math.ceil(n) for n in size], c.bias_spacing_mm / self.spacing_mm
        )
        gamma = math.exp(c.gamma_std * rng.standard_normal()) if appearance else 1.0
        noise_std = rng.uniform(0, c.noise_std) if appearance else 0.0
        thick = rng.random() < c.thickness_share
        thickness = rng.uniform(1, max(1.0, c.thickness_max_mm / self.spacing_mm)) if thick else 1.0
        return SynthesisDraw(
            seed=seed,
            label_map=which if label_map is None else label_map,
            background=bool(rng.random() < c.background_share) or self.background_always,
            means=torch.tensor(means, dtype=torch.float32),
            stds=torch.tensor(stds, dtype=torch.float32),
            gamma=gamma,
            log_bias=torch.tensor(strength * rng.standard_normal(nodes), dtype=torch.float32),
            thickness_axis=int(rng.integers(len(self.shape))),
            thickness=float(thickness),
            noise_std=float(noise_std),
            **self._draw_space(rng),
        )

    def _draw_space(self, rng: np.random.Generator) -> dict[str, Any]:
        c, ndim, voxel = self.config, len(self.shape), self.fine_spacing_mm
        angles = np.deg2rad(rng.uniform(-c.rotation_deg, c.rotation_deg, 1 if ndim == 2 else 3))
        scaling = 1 / rng.uniform(1 - c.scaling, 1 + c.scaling, ndim)
        shear = rng.uniform(-c.shearing, c.shearing, ndim * (ndim - 1) // 2)
        spacing = c.nonlinear_spacing_mm / voxel
        nodes = deformation.control_shape(self.shape, spacing)
        std = rng.uniform(0, c.nonlinear_std_mm) / voxel
        bound = deformation.FOLDING_BOUND * min(
            (n - 1) / (k - 3) for n, k in zip(self.shape, nodes, strict=True)
        )
        displacement = (std * rng.standard_normal((ndim, *nodes))).clip(-bound, bound)
        return {
            "matrix": deformation.affine_matrix(angles.tolist(), scaling.tolist(), shear.tolist()),
            "translation": torch.tensor(
                rng.uniform(-c.translation_mm, c.translation_mm, ndim) / voxel, dtype=torch.float32
            ),
            "displacement": torch.tensor(displacement, dtype=torch.float32),
            "flip": bool(rng.random() < c.flip),
        }

    def field(self, draw: SynthesisDraw) -> Tensor:
        """Voxel coordinates in the source of each fine voxel: (ndim, *F); see ``deformation``."""
        field = deformation.dense_field(
            draw.matrix, draw.translation, draw.displacement, self.shape
        )
        return field.flip(1) if draw.flip else field

    def render(self, draws: Sequence[SynthesisDraw], device: torch.device | str = "cpu") -> Sample:
        """Render the images that ``draws`` describe.

        Returns
        -------
        Sample
            On ``device``.
        """
        fine, groups, targets = [], [], []
        for draw in draws:
            warped = deformation.gather_labels(self.label_maps[draw.label_map], self.field(draw))
            flat = warped.reshape(-1).to(torch.int32)
            swap = self.labels.swap if draw.flip else torch.arange(len(self.labels.swap))
            lookup = self.labels.group[swap.long()]
            channel = self.labels.channel[swap.long()]
            if not draw.background:
                lookup = lookup * (channel > 0)
            group = lookup.index_select(0, flat).view(warped.shape)
            noise = _normal(draw.seed, 2, warped.shape)
            # Pooling divides the standard deviation by the root of the voxels pooled.
            stds = draw.stds * self.config.oversampling ** (warped.ndim / 2)
            fine.append(intensity.mixture(group, draw.means, stds, noise))
            groups.append(group)
            targets.append(
                intensity.soft_labels(
                    channel.index_select(0, flat).view(warped.shape),
                    self.labels.n_channels,
                    self.config.oversampling,
                )
            )
        sample = Sample(
            image=torch.empty(0),
            target=torch.stack(targets).to(device),
            groups=torch.stack(groups).to(device),
            draws=tuple(draws),
            group_names=self.labels.group_names,
            oversampling=self.config.oversampling,
            silent_outside=not self.background_always,
        )
        image = sample.finish(torch.stack(fine)[:, None].to(device))
        noise_stds = torch.tensor([d.noise_std for d in draws]).view(-1, *[1] * (image.ndim - 1))
        sample = attrs.evolve(sample, image=image)
        image = image + noise_stds.to(device) * sample.noise(stream=3)
        return attrs.evolve(sample, image=normalise(image))

    def augment(
        self, image: Tensor, channels: Tensor, draw: SynthesisDraw, *, opposite: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Deform a real image with its labels, and change its appearance, as ``draw`` says.

        Parameters
        ----------
        image : (*F,) float tensor
            Real image on the fine grid.
        channels : (*F,) integer tensor
            Segmentation class of each voxel.
        draw : SynthesisDraw
            Deformation, gamma, bias field, slice thickness and noise are used.
        opposite : sequence of int
            Class on the other side of the body.

        Returns
        -------
        image : (*S,) tensor
            Normalised.
        target : (K, *S) tensor
            Share of each class in each voxel.
        """
        field, factor = self.field(draw), self.config.oversampling
        warped = deformation.gather_labels(channels, field)
        if draw.flip:
            warped = torch.tensor(opposite)[warped.long()]
        target = intensity.soft_labels(warped, self.labels.n_channels, factor)
        blocks = intensity.block_means(normalise(image[None, None]), factor)[0, 0]
        centers = intensity.pool(field[:, None], factor)[:, 0] - (factor - 1) / 2
        x = deformation.sample_image(blocks, centers)[None, None]
        x = _appearance(x, [draw])
        noise = draw.noise_std * _normal(draw.seed, 3, x.shape[2:])
        if not self.background_always:
            noise = noise * (x[0, 0] > 0)
        return normalise(x + noise)[0, 0], target
