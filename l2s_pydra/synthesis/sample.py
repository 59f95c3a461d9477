"""A batch of synthetic images, and what its images go through after the Gaussian mixture."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ..normalisation import normalise
from ..targets import is_class_map
from . import artefacts, deformation, intensity, resolution
from .draw import SynthesisDraw
from .noise import standard_normal

__all__ = ["Sample", "acquire", "add_noise", "modulate", "stack"]


@attrs.frozen(kw_only=True, eq=False)
class Sample:
    """A batch of synthetic images and what they were made of."""

    image: Tensor
    """(B, C, *S) finished image, about [0, 1]."""
    target: Tensor
    """(B, *S) class of each voxel, or (B, K, *S) shares of the classes where fine voxels were
    pooled; see :mod:`l2s_pydra.targets`."""
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
    whole: tuple[int, ...] | None = None
    """Size of the working grid that the images are crops of, if they are."""

    def to(self, device: torch.device | str) -> "Sample":
        """Return the sample on a device; itself if it is there."""
        if self.image.device == torch.device(device):
            return self
        moved = {n: getattr(self, n).to(device) for n in ("image", "target", "groups")}
        return attrs.evolve(self, **moved)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seed of each image."""
        return tuple(draw.seed for draw in self.draws)

    def noise(self, *, fine: bool = False, stream: int = 0) -> Tensor:
        """Draw standard normal numbers that depend on the seeds and ``stream`` only.

        Noise on the working grid is 0 outside the tissue if :attr:`silent_outside`.

        Returns
        -------
        (B, 1, *S) tensor, or (B, 1, *F) if ``fine``; not to be changed in place
        """
        shape = self.groups.shape[1:] if fine else self.image.shape[2:]
        device = self.image.device
        drawn = stack(
            [standard_normal(s, stream + (1000 if fine else 0), shape, device) for s in self.seeds]
        )[:, None]
        return drawn * self.tissue() if self.silent_outside and not fine else drawn

    def tissue(self) -> Tensor:
        """(B, 1, *S): whether a voxel holds any tissue, 0 or 1."""
        return (intensity.pool((self.groups > 0)[:, None].float(), self.oversampling) > 0).float()

    def finish(self, fine: Tensor) -> Tensor:
        """Do what the generator does after the Gaussian mixture, but add no noise.

        Pool to the working grid; gamma, bias field, ghosts, movements; resolution. Differentiable;
        does not normalise.

        Parameters
        ----------
        fine : (B, C, *F) tensor

        Returns
        -------
        (B, C, *S) tensor
        """
        pooled = intensity.pool(fine, self.oversampling)
        images = []
        for image, draw in zip(pooled, self.draws, strict=True):
            signal = modulate(image, draw, self.whole)
            if draw.anisotropic:
                low = resolution.degrade(signal, draw.spacing, draw.thickness)
                signal = resolution.restore(low, signal.shape[1:])
            images.append(signal)
        finished = stack(images)
        return finished * self.tissue() if self.silent_outside else finished

    @staticmethod
    def normalise(image: Tensor) -> Tensor:
        """Rescale each image robustly to about [0, 1]; see :func:`l2s_pydra.normalisation.normalise`."""
        return normalise(image)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack, without a copy of a single tensor."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def modulate(x: Tensor, draw: SynthesisDraw, whole: Sequence[int] | None = None) -> Tensor:
    """Gamma, bias field, ghosts and movements of one image (C, *S), which is not negative."""
    bends = any(exponent != 1 for exponent in draw.gamma)
    x = intensity.gamma(x, draw.gamma) if bends else x.clamp_min(0)
    if bool(draw.log_bias.any()):
        size = x.shape[1:]
        window = [slice(a, a + n) for a, n in zip(draw.start, size, strict=True)]
        # Exponentiated where it is small: positive coefficients make a positive field.
        field = deformation.upsample(draw.log_bias.exp().to(x), whole or size, window)
        x = x * field if x.requires_grad else field.mul_(x)
    axis, count, strength = draw.ghosts
    if strength > 0:
        x = artefacts.ghosts(x, axis, count, strength)
    if len(draw.movements):
        moves = draw.movements.to(x)
        turns, shifts = moves[:, 1 : 1 - x.ndim], moves[:, 1 - x.ndim :]
        x = artefacts.motion(x, moves[:, 0], turns, shifts, draw.movement_axis)
    return x


def acquire(x: Tensor, draw: SynthesisDraw, tissue: Tensor | None) -> Tensor:
    """Sample one image (C, *S) at its resolution, with noise, and bring it back.

    Where ``tissue`` (*S) is 0 the image is black, as after skull-stripping.
    """
    size = x.shape[1:]
    low = resolution.degrade(x, draw.spacing, draw.thickness) if draw.anisotropic else x
    noisy = add_noise(low, draw)
    image = resolution.restore(noisy, size) if draw.anisotropic else noisy
    return image if tissue is None else image * (tissue > 0)


def cover(image: Tensor, target: Tensor, draw: SynthesisDraw) -> tuple[Tensor, Tensor]:
    """Normalise an image (C, *S), and show of it what the draw covers.

    The range of intensities is that of the slab that is covered, as it would be of a scan of it. Its
    outermost slices are repeated as far as the draw says, in the target too; from there the image is
    black and the target background.
    """
    if draw.coverage is None:
        return normalise(image[:, None])[:, 0], target
    axis, first, count = draw.coverage
    start, stop = max(0, first - draw.repeated), first + count + draw.repeated
    shown = (slice(None),) * axis + (slice(start, stop),)
    planes = torch.arange(image.shape[axis + 1], device=image.device)[start:stop]
    planes = planes.clamp(first, first + count - 1)
    slab = normalise(image.narrow(axis + 1, first, count)[:, None])[:, 0]
    black = torch.zeros_like(image)
    black[:, *shown] = slab.index_select(axis + 1, planes - first)
    empty = torch.zeros_like(target)
    if is_class_map(target):
        empty[shown] = target.index_select(axis, planes)
    else:
        empty[0] = 1
        empty[:, *shown] = target.index_select(axis + 1, planes)
    return black, empty


def add_noise(x: Tensor, draw: SynthesisDraw) -> Tensor:
    """Add the Gaussian or Rician noise of the draw to one image (C, *S)."""
    if not any(draw.noise_std):
        return x
    std = torch.tensor(draw.noise_std, device=x.device).view(-1, *[1] * (x.ndim - 1))
    if draw.rician:
        real, imaginary = (standard_normal(draw.seed, k, x.shape, x.device) for k in (3, 4))
        return artefacts.rician(x, std, real, imaginary)
    return torch.addcmul(x, std, standard_normal(draw.seed, 3, x.shape, x.device))
