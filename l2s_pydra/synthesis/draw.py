"""The record of everything random of one synthetic image, and how it is drawn."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from ..config import REPEAT_SHARE, SynthesisConfig
from . import deformation

__all__ = ["Drawer", "SynthesisDraw"]

_MOVEMENTS = 3
"""Most movements of a head during one acquisition."""
_ROUGHNESS = 6
"""Coefficients of a lesion's outline."""


@attrs.frozen(kw_only=True, eq=False)
class SynthesisDraw:
    """Everything random of one synthetic image with C channels, as data.

    Fine voxels are those of the grid that labels are warped on, working voxels those of the image.
    """

    seed: int
    """Seed of the noise."""
    label_map: int
    """Which label map."""
    start: tuple[int, ...]
    """First working voxel of the crop; zeros if there is none."""
    flip: bool
    """Whether left and right are exchanged."""
    matrix: Tensor
    """(ndim, ndim) linear part of the affine."""
    translation: Tensor
    """(ndim,) fine voxels."""
    displacement: Tensor
    """(ndim, *nodes) B-spline coefficients, fine voxels."""
    background: bool
    """Whether tissue outside the segmented structures is rendered at all."""
    margin: float
    """Where it is not: fine voxels around the structures within which it is."""
    means: Tensor
    """(C, G) mean of each group."""
    stds: Tensor
    """(C, G) standard deviation of each group's working voxels."""
    lesions: Tensor
    """(N, 4 + coefficients): where among the eligible voxels (share), radius in fine voxels, mean,
    standard deviation of working voxels, outline."""
    gamma: tuple[float, ...]
    """Exponent of each channel."""
    log_bias: Tensor
    """(C, *nodes) logarithms of the bias field's B-spline coefficients."""
    ghosts: tuple[int, int, float]
    """Axis, number and strength of ghosts; strength 0 is none."""
    movements: Tensor
    """(M, 1 + rotations + ndim): time in [0, 1], radians, working voxels; M = 0 is none."""
    movement_axis: int
    """Axis along which k-space was filled line by line."""
    spacing: tuple[float, ...]
    """Distance of the slices along each axis, working voxels; 1 leaves the axis alone."""
    thickness: tuple[float, ...]
    """Full width at half maximum of the slice profile along each axis, working voxels."""
    noise_std: tuple[float, ...]
    """Standard deviation of the noise of each channel, at the resolution of the acquisition."""
    rician: bool
    """Whether the image is a magnitude, with noise in the real and the imaginary part."""
    coverage: tuple[int, int, int] | None = None
    """Slab that is seen: axis, first working voxel of the image, number of voxels; None is all."""
    repeated: int = 0
    """Working voxels on either side of the slab that repeat its outermost ones."""

    @property
    def anisotropic(self) -> bool:
        """Whether the resolution is lowered along any axis."""
        return any(s > 1 for s in (*self.spacing, *self.thickness))

    def to_json(self) -> str:
        """JSON that :meth:`from_json` reads back exactly."""
        values = {
            key: {"shape": list(value.shape), "values": value.flatten().tolist()}
            if isinstance(value, Tensor)
            else value
            for key, value in attrs.asdict(self, recurse=False).items()
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "SynthesisDraw":
        """Read what :meth:`to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        for key, value in values.items():
            if isinstance(value, dict):
                numbers = torch.tensor(value["values"], dtype=torch.float32)
                values[key] = numbers.view(value["shape"])
            elif isinstance(value, list):
                values[key] = tuple(value)
        return cls(**values)

    def summary(self, *, spacing_mm: float = 1.0, oversampling: int = 1) -> dict[str, float | str]:
        """Return what a person wants to see under the image, by names that say the unit.

        Parts of the image that were left alone (no ghosts, no lesions) are not mentioned.

        Parameters
        ----------
        spacing_mm : float, default=1.0
            Size of a working voxel; 1 gives lengths in working voxels.
        oversampling : int, default=1
            Fine voxels per working voxel and axis.

        Returns
        -------
        dict
            Name to a number or words.
        """
        fine_mm = spacing_mm / oversampling
        shown: dict[str, float | str] = {
            "label map": str(self.label_map),
            "flipped": "yes" if self.flip else "no",
            "rotation (degrees)": math.degrees(
                math.acos(min(1.0, max(-1.0, _cosine(self.matrix))))
            ),
            "size (%)": 100
            * abs(float(torch.linalg.det(self.matrix.double()))) ** (-1 / len(self.matrix)),
            "shift (mm)": float(self.translation.norm()) * fine_mm,
            "largest displacement (mm)": float(_coarse(self.displacement).norm(dim=0).max())
            * fine_mm,
            "background": "yes" if self.background else _margin_in_words(self.margin * fine_mm),
        }
        if any(g != 1 for g in self.gamma):
            shown["gamma"] = _joined(f"{g:.2f}" for g in self.gamma)
        if bool(self.log_bias.any()):
            field = _coarse(self.log_bias.exp())
            shown["bias field (factor)"] = f"{float(field.min()):.2f} to {float(field.max()):.2f}"
        if self.anisotropic:
            shown["slices every (mm)"] = " x ".join(f"{spacing_mm * s:.1f}" for s in self.spacing)
            shown["slice profile (mm)"] = " x ".join(
                f"{spacing_mm * t:.1f}" for t in self.thickness
            )
        if any(self.noise_std):
            kind = "Rician" if self.rician else "Gaussian"
            levels = _joined(f"{100 * std:.1f}" for std in self.noise_std)
            shown["noise (% of the range)"] = f"{levels}, {kind}"
        if len(self.movements):
            ndim = len(self.matrix)
            turns, shifts = self.movements[:, 1:-ndim], self.movements[:, -ndim:]
            shown["movements"] = (
                f"{len(self.movements)}, up to {math.degrees(float(turns.abs().max())):.1f} degrees "
                f"and {float(shifts.norm(dim=1).max()) * spacing_mm:.1f} mm"
            )
        axis, count, strength = self.ghosts
        if strength > 0:
            shown["ghosts"] = f"{count} along {'xyz'[axis]}, {100 * strength:.0f} %"
        if self.coverage is not None:
            shown["seen (mm)"] = (
                f"{self.coverage[2] * spacing_mm:.0f} along {'xyz'[self.coverage[0]]}"
            )
        if len(self.lesions):
            radius = float(self.lesions[:, 1].max()) * fine_mm
            shown["lesions"] = f"{len(self.lesions)}, radius up to {radius:.1f} mm"
        return shown


def _joined(parts: Iterable[str]) -> str:
    return " / ".join(parts)


def _margin_in_words(margin_mm: float) -> str:
    return f"{margin_mm:.1f} mm around the structures" if margin_mm else "no"


def _coarse(control: Tensor) -> Tensor:
    """Values of a spline at four points between neighbouring nodes: all that its extremes need."""
    return deformation.upsample(control, [4 * (nodes - 3) + 1 for nodes in control.shape[1:]])


def _cosine(matrix: Tensor) -> float:
    """Cosine of the rotation angle of the nearest rotation."""
    u, _, v = torch.linalg.svd(matrix.double())
    trace = float((u @ v).trace())
    return trace / 2 if len(matrix) == 2 else (trace - 1) / 2


@attrs.frozen(kw_only=True, eq=False)
class Drawer:
    """Draws records from the ranges of a :class:`~l2s_pydra.config.SynthesisConfig`."""

    config: SynthesisConfig
    """The ranges."""
    shape: tuple[int, ...]
    """Size of the fine grid."""
    spacing_mm: float
    """Voxel size of the working grid."""
    n_maps: int
    """Number of label maps."""
    group_names: Sequence[str]
    """Groups of intensities; the first is the outside."""
    background_always: bool
    """Whether background tissue is part of the images that are to be segmented."""
    acquisitions: Sequence[Sequence[float]] = ()
    """Voxel sizes of real acquisitions, working voxels along each axis, for images that are to look
    like them."""

    def __call__(
        self, seed: int, *, label_map: int | None = None, appearance: bool = True
    ) -> SynthesisDraw:
        """Draw; see :meth:`~l2s_pydra.synthesis.Synthesizer.draw`."""
        rng = np.random.default_rng([seed, 77])
        which = int(rng.integers(self.n_maps))
        means, stds = self._mixture(rng)
        return SynthesisDraw(
            seed=seed,
            label_map=which if label_map is None else label_map,
            means=means,
            stds=stds,
            **self._space(rng),
            **self._content(rng),
            **self._signal(rng, appearance=appearance),
            **self._acquisition(rng, appearance=appearance),
            coverage=self._coverage(rng) if appearance else None,
            repeated=self._repeated,
        )

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def _repeated(self) -> int:
        """Slices that repeat the outermost one of a slab; none in 2-D, where inference does not."""
        c = self.config
        if self.ndim == 2:
            return 0
        longest = max(c.crop or self.working_shape)
        return round(min(c.coverage_repeat_mm / self.spacing_mm, REPEAT_SHARE * longest))

    @property
    def working_shape(self) -> tuple[int, ...]:
        """Size of the whole working grid."""
        return tuple(n // self.config.oversampling for n in self.shape)

    def _space(self, rng: np.random.Generator) -> dict[str, Any]:
        c, ndim = self.config, self.ndim
        voxel = self.spacing_mm / c.oversampling
        angles = np.deg2rad(rng.uniform(-c.rotation_deg, c.rotation_deg, 1 if ndim == 2 else 3))
        scaling = 1 / rng.uniform(1 - c.scaling, 1 + c.scaling, ndim)
        shear = rng.uniform(-c.shearing, c.shearing, ndim * (ndim - 1) // 2)
        nodes = deformation.control_shape(self.shape, c.nonlinear_spacing_mm / voxel)
        std = rng.uniform(0, c.nonlinear_std_mm) / voxel
        bound = deformation.FOLDING_BOUND * min(
            (n - 1) / (k - 3) for n, k in zip(self.shape, nodes, strict=True)
        )
        displacement = (std * rng.standard_normal((ndim, *nodes))).clip(-bound, bound)
        return {
            "matrix": deformation.affine_matrix(angles.tolist(), scaling.tolist(), shear.tolist()),
            "translation": _float(rng.uniform(-c.translation_mm, c.translation_mm, ndim) / voxel),
            "displacement": _float(displacement),
            "flip": bool(rng.random() < c.flip),
            "start": self._start(rng),
        }

    def _start(self, rng: np.random.Generator) -> tuple[int, ...]:
        crop = self.config.crop or self.working_shape
        return tuple(
            int(rng.integers(max(0, n - side) + 1))
            for n, side in zip(self.working_shape, crop, strict=True)
        )

    def _mixture(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        c, groups = self.config, len(self.group_names)
        size = (c.channels, groups)
        means, stds = rng.uniform(*c.mean_range, size), rng.uniform(*c.std_range, size)
        if c.priors and rng.random() >= c.prior_free_share:
            for group, name in enumerate(self.group_names):
                if name in c.priors:
                    mean, mean_std, std, std_std = c.priors[name]
                    means[:, group] = rng.normal(mean, mean_std, c.channels)
                    stds[:, group] = rng.normal(std, std_std, c.channels)
        means, stds = means.clip(0, None), stds.clip(0, None)
        means[:, 0] = stds[:, 0] = 0
        return _float(means), _float(stds)

    def _content(self, rng: np.random.Generator) -> dict[str, Any]:
        c = self.config
        share = 1 - c.strip_share if self.background_always else c.background_share
        voxel = self.spacing_mm / c.oversampling
        lesions = np.zeros((0, 4 + _ROUGHNESS))
        background, margin = bool(rng.random() < share), rng.uniform(0, c.strip_margin_mm) / voxel
        if rng.random() < c.lesion_share:
            count = int(rng.integers(1, c.lesion_count + 1))
            lesions = np.concatenate(
                [
                    rng.random((count, 1)),
                    rng.uniform(1, max(1.0, c.lesion_radius_mm / voxel), (count, 1)),
                    np.repeat(rng.uniform(*c.mean_range, (1, 1)), count, 0),
                    np.repeat(rng.uniform(*c.std_range, (1, 1)), count, 0),
                    0.25 * rng.standard_normal((count, _ROUGHNESS)),
                ],
                1,
            )
        # A margin is only for tissue that the images to be segmented would show.
        kept = margin if self.background_always else 0.0
        return {"background": background, "margin": float(kept), "lesions": _float(lesions)}

    def _signal(self, rng: np.random.Generator, *, appearance: bool) -> dict[str, Any]:
        """Draw what happens to the signal before it is sampled."""
        c, ndim = self.config, self.ndim
        size = [math.ceil(n) for n in self.working_shape]
        nodes = deformation.control_shape(size, c.bias_spacing_mm / self.spacing_mm)
        strength = rng.uniform(0, c.bias_std, (c.channels, *[1] * ndim))
        log_bias = strength * rng.standard_normal((c.channels, *nodes))
        gamma = np.exp(c.gamma_std * rng.standard_normal(c.channels))
        ghosted, moved = appearance & (rng.random(2) < (c.ghost_share, c.motion_share))
        axis, count = int(rng.integers(ndim)), int(rng.integers(2, 9))
        modulation = float(rng.uniform(0.05, c.ghost_strength)) if ghosted else 0.0
        movements = np.zeros((0, 1 + (1 if ndim == 2 else 3) + ndim))
        if moved:
            movements = self._movements(rng)
        return {
            "gamma": tuple(gamma.tolist()) if appearance else (1.0,) * c.channels,
            "log_bias": _float(log_bias if appearance else 0 * log_bias),
            "ghosts": (axis, count, modulation),
            "movements": _float(movements),
            "movement_axis": int(rng.integers(ndim)),
        }

    def _movements(self, rng: np.random.Generator) -> Any:
        c, ndim = self.config, self.ndim
        count = int(rng.integers(1, _MOVEMENTS + 1))
        angle, shift = np.deg2rad(c.motion_deg), c.motion_mm / self.spacing_mm
        return np.concatenate(
            [
                np.sort(rng.random((count, 1)), 0),
                rng.uniform(-angle, angle, (count, 1 if ndim == 2 else 3)),
                rng.uniform(-shift, shift, (count, ndim)),
            ],
            1,
        )

    def _acquisition(self, rng: np.random.Generator, *, appearance: bool) -> dict[str, Any]:
        """Draw resolution and noise (Billot et al. 2023: isotropic, or along one random axis)."""
        c, ndim = self.config, self.ndim
        spacing = np.ones(ndim)
        lowered, isotropic = rng.random(2) < (c.resolution_share, c.isotropic_share)
        axis = int(rng.integers(ndim))
        iso, aniso = (
            rng.uniform(1, max(1.0, most / self.spacing_mm))
            for most in (c.spacing_isotropic_mm, c.spacing_slices_mm)
        )
        if lowered and isotropic:
            spacing[:] = iso
        elif lowered:
            spacing[axis] = aniso
        chosen = int(rng.integers(max(1, len(self.acquisitions))))
        if not appearance:
            real = self.acquisitions[chosen] if self.acquisitions else np.ones(ndim)
            spacing = np.maximum(np.asarray(real, dtype=float), 1)
        thickness = 1 + (spacing - 1) * (rng.uniform(0, 1) if appearance else 1)
        noise = rng.uniform(0, c.noise_std, c.channels)
        return {
            "spacing": tuple(spacing.tolist()),
            "thickness": tuple(thickness.tolist()),
            "noise_std": tuple(noise.tolist()) if appearance else (0.0,) * c.channels,
            "rician": bool(rng.random() < c.rician_share),
        }

    def _coverage(self, rng: np.random.Generator) -> tuple[int, int, int] | None:
        """Draw the part that is seen; last, so that older records are drawn as they were."""
        c = self.config
        if rng.random() >= c.coverage_share:
            return None
        size = c.crop or self.working_shape
        axis = int(rng.integers(self.ndim))
        most = min(size[axis], (c.coverage_most_mm or math.inf) / self.spacing_mm)
        least = min(most, c.coverage_least_mm / self.spacing_mm)
        count = max(1, round(rng.uniform(least, most)))
        return axis, int(rng.integers(size[axis] - count + 1)), count


def _float(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
