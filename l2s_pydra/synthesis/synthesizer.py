"""The generator G: draw random parameters, render the image they describe.

Drawing and rendering are separate: a :class:`~l2s_pydra.synthesis.SynthesisDraw` is a record that
can be stored as JSON, shown and replayed; the same draw gives the same image.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from ..config import SynthesisConfig
from ..errors import ConfigError, LabelError
from ..normalisation import normalise
from . import deformation, intensity
from .draw import Drawer, SynthesisDraw
from .lesions import blobs, eligible_centers
from .noise import standard_normal
from .sample import Sample, acquire, cover, modulate, stack

__all__ = ["GenerationLabels", "Synthesizer"]

_T = TypeVar("_T")
_BLACK = 0.02
"""Normalised intensity up to which a voxel of a stripped image counts as empty."""


@attrs.frozen(kw_only=True, eq=False)
class GenerationLabels:
    """What the values of the label maps mean for synthesis and for segmentation.

    Generation labels may be finer than segmentation labels: CSF and skull have an intensity of
    their own and are background to the segmenter.

    Raises
    ------
    LabelError
        If the tables do not fit one another.
    """

    group: Tensor = attrs.field()
    """(L,) integer: intensity group of each generation label; 0 is outside, which is always black."""
    channel: Tensor = attrs.field()
    """(L,) int64: channel of the segmentation of each generation label."""
    group_names: tuple[str, ...]
    """Name of each group; the first is ``outside``."""
    swap: Tensor = attrs.field()
    """(L,) integer: the generation label on the other side of the body."""
    n_channels: int
    """Number of segmentation classes, background included."""

    def __attrs_post_init__(self) -> None:
        if int(self.group[0]) != 0:
            raise LabelError("generation label 0 must be in group 0 (outside)")
        tables = {
            "group": (self.group, len(self.group_names)),
            "channel": (self.channel, self.n_channels),
            "swap": (self.swap, len(self.group)),
        }
        for name, (table, count) in tables.items():
            if len(table) != len(self.group):
                raise LabelError(
                    f"the table {name!r} has {len(table)} generation labels, 'group' has "
                    f"{len(self.group)}; give each label one entry in either"
                )
            if int(table.min()) < 0 or int(table.max()) >= count:
                raise LabelError(
                    f"the table {name!r} goes from {int(table.min())} to {int(table.max())}; "
                    f"values from 0 to {count - 1} are known"
                )


def _checked_maps(_: Any, field: Any, maps: Sequence[Tensor]) -> None:
    if not maps:
        raise LabelError("there is no label map to make images from")
    for number, labels in enumerate(maps):
        where = f"label map {number}"
        if labels.is_floating_point():
            raise LabelError(f"{where} holds {labels.dtype}, not integers")
        if labels.shape != maps[0].shape:
            raise LabelError(
                f"{where} has the size {tuple(labels.shape)}, the first {tuple(maps[0].shape)}; "
                "bring them to one grid"
            )
        if labels.ndim not in (2, 3) or 0 in labels.shape:
            raise LabelError(f"{where} has the size {tuple(labels.shape)}; 2-D or 3-D is needed")
        if int(labels.min()) < 0 or int(labels.max()) == int(labels.min()):
            raise LabelError(
                f"{where} has the labels {int(labels.min())} to {int(labels.max())}; at least two "
                "from 0 on are needed"
            )


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
        Whether background tissue is part of the images that are to be segmented.
    acquisitions : sequence of ndim numbers
        Voxel sizes of the learning images along each axis, in working voxels.

    Raises
    ------
    LabelError
        If a label map is empty, of one label only, of another size, or has labels beyond the table.
    ConfigError
        If the voxel size or the crop cannot be used.

    References
    ----------
    Billot et al., SynthSeg, Medical Image Analysis 2023, section 3.
    """

    label_maps: Sequence[Tensor] = attrs.field(validator=_checked_maps)
    labels: GenerationLabels
    config: SynthesisConfig
    spacing_mm: float
    background_always: bool = True
    acquisitions: Sequence[Sequence[float]] = ()
    _prepared: dict[Any, Any] = attrs.field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if not (math.isfinite(self.spacing_mm) and self.spacing_mm > 0):
            raise ConfigError(f"a voxel size is a number of mm above 0, not {self.spacing_mm}")
        largest = max(int(labels.max()) for labels in self.label_maps)
        if largest >= len(self.labels.group):
            raise LabelError(
                f"a label map has the label {largest}, the table ends at "
                f"{len(self.labels.group) - 1}; complete the table"
            )
        factor, crop = self.config.oversampling, self.config.crop
        if any(n % factor for n in self.shape):
            raise ConfigError(
                f"label maps of the size {self.shape} cannot be pooled by {factor}; "
                "pad them, or set synthesis.oversampling to 1"
            )
        whole = self.working_shape
        if crop and (len(crop) != len(whole) or any(map(int.__gt__, crop, whole))):
            raise ConfigError(
                f"a crop of {crop} does not fit into the working grid of {whole} voxels; "
                "set synthesis.crop to null or to a smaller size"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the fine grid."""
        return tuple(self.label_maps[0].shape)

    @property
    def working_shape(self) -> tuple[int, ...]:
        """Size of the whole working grid."""
        return tuple(n // self.config.oversampling for n in self.shape)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Size of the images: the crop, or the whole working grid."""
        return self.config.crop or self.working_shape

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
            Whether to draw gamma, bias field, artefacts, resolution and noise. Otherwise they are
            neutral, for an augmentation that brings its own, and the resolution is that of one of
            the ``acquisitions``.
        """
        drawer = Drawer(
            config=self.config,
            shape=self.shape,
            spacing_mm=self.spacing_mm,
            n_maps=len(self.label_maps),
            group_names=self.labels.group_names,
            background_always=self.background_always,
            acquisitions=self.acquisitions,
        )
        return drawer(seed, label_map=label_map, appearance=appearance)

    def field(self, draw: SynthesisDraw, device: torch.device | str = "cpu") -> Tensor:
        """Voxel coordinates in the source of each fine voxel: (ndim, *F); see ``deformation``.

        Of a crop, those of its voxels.
        """
        field = deformation.dense_field(
            draw.matrix,
            draw.translation,
            draw.displacement,
            self.shape,
            window=self._window(draw),
            device=device,
        )
        return field.flip(1) if draw.flip else field

    def _window(self, draw: SynthesisDraw) -> list[slice] | None:
        """Fine voxels of the crop, if there is one."""
        if not self.config.crop:
            return None
        factor = self.config.oversampling
        return [
            slice(factor * a, factor * (a + n))
            for a, n in zip(draw.start, self.image_shape, strict=True)
        ]

    def render(self, draws: Sequence[SynthesisDraw], device: torch.device | str = "cpu") -> Sample:
        """Render the images that ``draws`` describe, on ``device``.

        The same draw gives the same image, to the last bit on one device and to 1e-3 (of the range
        [0, 1]) on another, but for a few voxels on borders of labels.

        Returns
        -------
        Sample
        """
        parts = [self._render(draw, torch.device(device)) for draw in draws]
        images, targets, groups = zip(*parts, strict=True)
        return Sample(
            image=stack(images),
            target=stack(targets),
            groups=stack(groups),
            draws=tuple(draws),
            group_names=self.labels.group_names,
            oversampling=self.config.oversampling,
            silent_outside=not self.background_always,
            whole=self.working_shape if self.config.crop else None,
        )

    @torch.no_grad()
    def _render(self, draw: SynthesisDraw, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """One image: (C, *S), its target, its groups (*F,)."""
        factor = self.config.oversampling
        groups, channels = self._warped(draw, device)
        self._strip(draw, groups, channels)
        fine = self._mixture(draw, groups)
        self._add_lesions(fine, groups, channels, draw)
        x = modulate(intensity.pool(fine[None], factor)[0], draw, self.working_shape)
        tissue = None
        if not self.background_always:
            tissue = intensity.pool((groups > 0)[None, None].float(), factor)[0, 0]
        image = acquire(x, draw, tissue)
        del x, fine
        target = channels
        if factor > 1:
            target = intensity.soft_labels(channels, self.labels.n_channels, factor)
        return *cover(image, target, draw), groups

    def _warped(self, draw: SynthesisDraw, device: torch.device) -> tuple[Tensor, Tensor]:
        """Group and class of each fine voxel: two (*F,) integer tensors."""
        labels = self._map(draw.label_map, device)
        tables = self._tables(draw.flip, device)
        shape = [self.config.oversampling * n for n in self.image_shape]
        results = [torch.empty(shape, dtype=table.dtype, device=device) for table in tables]
        control = deformation.source_control(
            draw.matrix, draw.translation, draw.displacement, self.shape
        )
        for rows, field in deformation.slabs(
            control.to(device), self.shape, self._window(draw), flip=draw.flip
        ):
            index = deformation.warp_labels(labels, field).view(-1).to(torch.int32)
            for table, result in zip(tables, results, strict=True):
                torch.index_select(table, 0, index, out=result[rows].view(-1))
        groups, channels = results
        return groups, channels

    @staticmethod
    def _strip(draw: SynthesisDraw, groups: Tensor, channels: Tensor) -> None:
        """Put tissue outside the structures outside, in place, if that is what was drawn."""
        if not draw.background:
            kept = intensity.dilate(channels > 0, round(draw.margin))
            groups.mul_(kept)

    def _mixture(self, draw: SynthesisDraw, groups: Tensor) -> Tensor:
        """(C, *F): the Gaussian mixture over groups."""
        # Pooling divides the standard deviation by the root of the voxels pooled.
        stds = draw.stds * self.config.oversampling ** (groups.ndim / 2)
        channels = [
            intensity.mixture(
                groups,
                mean.to(groups.device),
                std.to(groups.device),
                standard_normal(draw.seed, 2 + 10 * number, groups.shape, groups.device),
            )
            for number, (mean, std) in enumerate(zip(draw.means, stds, strict=True))
        ]
        return stack(channels)

    def _add_lesions(
        self, fine: Tensor, groups: Tensor, channels: Tensor, draw: SynthesisDraw
    ) -> None:
        """Draw blobs over the image (C, *F), inside the group that most voxels belong to."""
        if not len(draw.lesions):
            return
        inside = groups * (channels > 0)
        counts = torch.bincount(inside.flatten().to(torch.int64))[1:]
        if not len(counts):
            return
        where = inside == int(counts.argmax()) + 1
        shares, radii, means, stds = draw.lesions[:, :4].to(fine.device).unbind(1)
        centers = eligible_centers(where, shares)
        mask = blobs(fine.shape[1:], centers, radii, draw.lesions[:, 4:].to(fine.device))
        mask = mask * where
        spread = stds[0] * self.config.oversampling ** (groups.ndim / 2)
        noise = standard_normal(draw.seed, 5, mask.shape, fine.device)
        fine.lerp_((means[0] + spread * noise).expand_as(fine), mask.expand_as(fine))

    def _map(self, number: int, device: torch.device) -> Tensor:
        """Label map with its border, on the device; made once."""
        return self._once(
            ("map", number, str(device)),
            lambda: deformation.bordered(self.label_maps[number]).to(device),
        )

    def _tables(self, flip: bool, device: torch.device) -> tuple[Tensor, Tensor]:
        """Group and channel of each label, of the other side's label if ``flip``."""
        return self._once(("tables", flip, str(device)), lambda: self._made_tables(flip, device))

    def _made_tables(self, flip: bool, device: torch.device) -> tuple[Tensor, Tensor]:
        swap = self.labels.swap.long() if flip else torch.arange(len(self.labels.swap))
        small = torch.uint8 if self.labels.n_channels <= 255 else torch.int16
        return self.labels.group[swap].to(device), self.labels.channel[swap].to(small).to(device)

    def _once(self, key: Any, make: Callable[[], _T]) -> _T:
        if key not in self._prepared:
            self._prepared[key] = make()
        prepared: _T = self._prepared[key]
        return prepared

    @torch.no_grad()
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
            Deformation, gamma, bias field, artefacts, resolution and noise are used.
        opposite : sequence of int
            Class on the other side of the body.

        Returns
        -------
        image : (*S,) tensor
            Normalised.
        target : (*S,) integer or (K, *S) float tensor
            Classes, or their shares; see :mod:`l2s_pydra.targets`.
        """
        field, factor = self.field(draw), self.config.oversampling
        warped = deformation.gather_labels(channels, field)
        if draw.flip:
            warped = torch.tensor(opposite, dtype=warped.dtype)[warped.long()]
        target = warped
        if factor > 1:
            target = intensity.soft_labels(warped, self.labels.n_channels, factor)
        blocks = intensity.block_means(normalise(image[None, None]), factor)[0, 0]
        centers = intensity.pool(field[:, None], factor)[:, 0] - (factor - 1) / 2
        moved = deformation.sample_image(blocks, centers)
        # Before gamma, which makes what interpolation leaves outside a stripped head visible.
        tissue = (moved > _BLACK).float() if not self.background_always else None
        x = modulate(moved[None], draw, self.working_shape)
        seen, target = cover(acquire(x, draw, tissue), target, draw)
        return seen[0], target
