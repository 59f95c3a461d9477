"""How a prediction is divided, so that its memory stays within bounds."""

import math
from collections.abc import Callable

import attrs
import torch

from ..errors import ConfigError
from .footprint import Footprint, footprint
from .segmenter import Segmenter
from .tiles import Tiling, fitting_tiling, side_tiling, smallest_tiling, tiling
from .views import SHIFT

__all__ = ["MEMORY_MB", "Plan", "easier", "plan_prediction"]

MEMORY_MB = 4000.0
"""Memory that a prediction may take where nothing is said, 1e6 bytes: a head of 1 mm is segmented
whole, whichever machine it is, so that its result is the same everywhere."""
_MOST_SLICES = 32

_Foresee = Callable[[tuple[int, ...], int, torch.dtype], Footprint]


@attrs.frozen(kw_only=True)
class Limits:
    """What a prediction is to keep to, wherever it is computed."""

    tiles: str | int | None = "auto"
    """``auto``, the largest side of a tile, or None for the whole box."""
    memory_mb: float | None = None
    """Memory it may take, 1e6 bytes."""
    most_voxels: int | None = None
    """Largest tile, voxels; instead of the memory."""


@attrs.frozen(kw_only=True, eq=False)
class Plan:
    """How a box is segmented."""

    device: torch.device
    """Where."""
    dtype: torch.dtype
    """Type of weights and activations."""
    tiling: Tiling
    """Tiles of the box; of a 2-D network, the whole of a slice."""
    batch: int
    """Slices at once; 1 in 3-D."""
    limits: Limits
    """What it keeps to."""
    predicted: _Foresee
    """Footprint of a tile of certain sides, or of a number of slices, computed in a type."""

    def foresee(self, size: tuple[int, ...], batch: int) -> Footprint:
        """Predict the memory of a tile of certain sides, or of a number of slices."""
        return self.predicted(size, batch, self.dtype)

    @property
    def footprint(self) -> Footprint:
        """Memory it takes."""
        return self.foresee(self.tiling.largest, self.batch)

    @property
    def peak(self) -> int:
        """Predicted peak where it is computed, bytes."""
        return self.footprint.device if self.device.type == "cuda" else self.footprint.host

    @property
    def excess(self) -> list[str]:
        """What is to be said where it takes more memory than it was allowed in so many words."""
        allowed = self.limits.memory_mb
        if allowed is None or self.peak <= 1e6 * allowed:
            return []
        return [
            f"takes about {self.peak / 1e6:.0f} MB of memory {self.words()}, "
            f"more than the {allowed:g} MB it may"
        ]

    def words(self) -> str:
        """Describe it."""
        if len(self.tiling.spans) == 2:
            return f"on {self.device} with {self.batch} slices at a time"
        if len(self.tiling) == 1:
            return f"on {self.device} with the whole volume"
        sides = " x ".join(map(str, self.tiling.largest))
        return f"on {self.device} with {len(self.tiling)} tiles of {sides} voxels"


def plan_prediction(
    segmenter: Segmenter,
    box: tuple[int, ...],
    image: tuple[int, ...],
    *,
    device: torch.device,
    dtype: torch.dtype,
    drawn: bool = False,
    tiles: str | int | None = "auto",
    memory_mb: float | None = None,
    most_voxels: int | None = None,
) -> tuple[Plan, list[str]]:
    """Decide how a box is segmented.

    Parameters
    ----------
    segmenter : Segmenter
        The network.
    box, image : 3 ints
        Voxels of the box, and of the image around it.
    device, dtype
        Where to compute, and with what.
    drawn : bool
        Whether the box is shifted, too.
    tiles, memory_mb, most_voxels
        See :func:`~l2s_pydra.segmentation.inference.predict`.

    Returns
    -------
    Plan, list of str
        And what else than asked for it does.

    Raises
    ------
    ConfigError
        If ``tiles`` is no way to divide, or the memory is not positive.
    """
    if memory_mb is not None and not memory_mb > 0:
        raise ConfigError(f"{memory_mb} MB of memory are not enough; ask for more than 0")
    ndim = segmenter.config.ndim
    shape = tuple(n + (SHIFT if drawn else 0) for n in box[:ndim])
    plan = Plan(
        device=device,
        dtype=dtype,
        tiling=tiling(shape, segmenter.multiple, [1] * ndim),
        batch=1 if ndim == 3 else min(box[2], _MOST_SLICES),
        limits=Limits(tiles=tiles, memory_mb=memory_mb, most_voxels=most_voxels),
        predicted=_foreseer(segmenter, box, image),
    )
    plan = _fewer_slices(plan) if ndim == 2 else _tiled(plan)
    return plan, plan.excess


def easier(plan: Plan, cpu_dtype: torch.dtype) -> Plan | None:
    """Return a plan for what ran out of memory; None if there is none.

    Tiles with at most three quarters of the footprint; where there are none, the CPU, with the tiles
    that keep its memory within the same limits.

    Parameters
    ----------
    plan : Plan
        That ran out of memory.
    cpu_dtype : torch.dtype
        What a CPU computes with.
    """
    if plan.batch > 1:
        return attrs.evolve(plan, batch=plan.batch // 2)
    if len(plan.tiling.spans) == 3:
        most = 3 * plan.footprint.passing // 4
        smaller = fitting_tiling(
            plan.tiling.shape, plan.tiling.multiple, lambda s: plan.foresee(s, 1).passing <= most
        )
        if smaller is not None:
            return attrs.evolve(plan, tiling=smaller)
    if plan.device.type == "cpu":
        return None
    there = attrs.evolve(plan, device=torch.device("cpu"), dtype=cpu_dtype)
    return there if len(plan.tiling.spans) == 2 else _tiled(there)


def _foreseer(segmenter: Segmenter, box: tuple[int, ...], image: tuple[int, ...]) -> _Foresee:
    parameters = sum(p.numel() for p in segmenter.parameters())

    def foresee(size: tuple[int, ...], batch: int, dtype: torch.dtype) -> Footprint:
        return footprint(
            segmenter.config,
            segmenter.n_classes,
            size,
            parameters=parameters,
            number=dtype.itemsize,
            batch=batch,
            box=box,
            image=image,
        )

    return foresee


def _fits(plan: Plan, size: tuple[int, ...], batch: int) -> bool:
    """Whether a tile of certain sides, or a number of slices, is within the limits of a plan."""
    limits = plan.limits
    if limits.most_voxels is not None:
        inside = (min(a, b) for a, b in zip(size, plan.tiling.shape, strict=True))
        return math.prod(inside) * batch <= limits.most_voxels
    found, most = plan.foresee(size, batch), 1e6 * (limits.memory_mb or MEMORY_MB)
    besides = found.weights if plan.device.type == "cuda" else found.host - found.passing
    # Where what cannot be divided takes it all, tiny tiles would hardly help.
    return found.passing <= max(most - besides, most / 8)


def _fewer_slices(plan: Plan) -> Plan:
    batch = plan.batch
    while batch > 1 and not _fits(plan, plan.tiling.largest, batch):
        batch //= 2
    return attrs.evolve(plan, batch=batch)


def _tiled(plan: Plan) -> Plan:
    """Divide the box anew, for where the plan computes."""
    whole = tiling(plan.tiling.shape, plan.tiling.multiple, [1] * len(plan.tiling.spans))
    chosen = _chosen(whole, plan.limits.tiles, lambda size: _fits(plan, size, 1))
    return attrs.evolve(plan, tiling=chosen)


def _chosen(
    whole: Tiling, tiles: str | int | None, fits: Callable[[tuple[int, ...]], bool]
) -> Tiling:
    shape, multiple = whole.shape, whole.multiple
    if tiles is None:
        return whole
    if tiles == "auto":
        chosen = fitting_tiling(shape, multiple, fits)
    elif isinstance(tiles, int) and not isinstance(tiles, bool) and tiles > 0:
        side = max(tiles, multiple)
        chosen = side_tiling(shape, multiple, side)
        if not fits(chosen.largest):
            chosen = fitting_tiling(shape, multiple, lambda s: max(s) <= side and fits(s))
    else:
        raise ConfigError(
            f"tiles are 'auto', the largest side in voxels or None, not {tiles!r}; give one of these"
        )
    return chosen or smallest_tiling(shape, multiple)
