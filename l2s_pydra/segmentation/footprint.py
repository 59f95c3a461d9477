"""How much memory a prediction takes, from shapes.

What :class:`~l2s_pydra.segmentation.slabs.SlabForward` holds at each of its stages is added up; the
peak is the largest sum. ``benchmarks/inference.py`` compares it with measured peaks.

Symbols: K classes, V voxels of the box that is segmented.
"""

import math
from collections.abc import Iterator, Sequence

import attrs

from ..config import SegmenterConfig
from .slabs import slab_rows

__all__ = ["Footprint", "footprint"]

_FLOAT = 4
"""Bytes of a number in full precision."""
_IMAGES = 4
"""Copies of the image and of its box in full precision: normalised, cut out, mirrored."""
_LIBRARY = 160_000_000
"""What comes on top: packed weights, buffers of threads, and freed blocks of less than 32 MiB, which
the allocator of glibc keeps."""


@attrs.frozen(kw_only=True)
class Footprint:
    """Bytes at the peak of a prediction, by what they are for."""

    posterior: int
    """The result; always on the CPU."""
    images: int
    """Copies of the image; on the CPU."""
    weights: int
    """The network's weights as they are computed with; on the device."""
    passing: int
    """Activations, logits, posteriors of a slab; on the device."""

    @property
    def host(self) -> int:
        """Peak on a CPU that computes by itself."""
        return self.posterior + self.images + self.device

    @property
    def device(self) -> int:
        """Peak on a GPU."""
        return self.weights + self.passing


def footprint(
    config: SegmenterConfig,
    n_classes: int,
    size: Sequence[int],
    *,
    parameters: int,
    number: int = 4,
    batch: int = 1,
    box: Sequence[int] | None = None,
    image: Sequence[int] | None = None,
) -> Footprint:
    """Predict the peak memory of a prediction.

    Parameters
    ----------
    config : SegmenterConfig
        The network.
    n_classes : int
        K.
    size : ints
        Sides of what passes the network at once: of a tile, or of a slice.
    parameters : int
        Parameters of the network.
    number : int, default=4
        Bytes of a weight and of an activation.
    batch : int, default=1
        Slices that pass the network at once.
    box, image : ints, optional
        Sides of the box that is segmented, and of the image around it; ``size`` by default.

    Returns
    -------
    Footprint
    """
    box = size if box is None else box
    image = box if image is None else image
    return Footprint(
        posterior=_FLOAT * n_classes * math.prod(box),
        images=_FLOAT * (math.prod(image) + _IMAGES * math.prod(box)),
        weights=number * parameters + _LIBRARY,
        passing=batch * max(_stages(config, n_classes, size, number)),
    )


@attrs.frozen
class _Level:
    """One level of the U-Net: bytes of its whole output and of one channel of a slab."""

    width: int
    channel: int
    slab: int
    whole: bool

    @property
    def output(self) -> int:
        return self.width * self.channel


def _stages(
    config: SegmenterConfig, n_classes: int, size: Sequence[int], number: int
) -> Iterator[int]:
    """Bytes held at each stage."""
    fold = int(config.subvoxel**config.ndim)
    entry = fold * (1 + (config.ndim if config.coordinates else 0))
    levels = [_level(config, size, i, number) for i in range(config.depth)]
    image = levels[0].channel * entry
    # The image as it is, with coordinates, folded, and cast.
    yield math.ceil(image * (1 + 3 * _FLOAT / number))
    skips, given, c_in = image, image, entry
    for i, level in enumerate(levels):
        inner = level.slab * max(c_in + level.width, 2 * level.width)
        deepest = i == config.depth - 1
        pooled = 0 if deepest else 2 * level.output // 2**config.ndim
        yield skips + given + (0 if level.whole else level.output) + inner + pooled
        if config.norm != "none":
            yield skips + given + level.output * (1 + 2 * _FLOAT // number)
        if not deepest:
            skips += level.output
        given, c_in = pooled // 2, level.width
    given = levels[-1].output
    for i in reversed(range(config.depth - 1)):
        level = levels[i]
        inner = 3 * level.width * level.slab
        if i:
            yield skips + given + (0 if level.whole else level.output) + inner
            skips, given = skips - level.output, level.output
        else:
            yield skips + given + inner
        if config.norm != "none":
            yield skips + given + level.output * (2 + 2 * _FLOAT // number)
    yield skips + given + _ending(levels[0], n_classes * fold, number)


def _level(config: SegmenterConfig, size: Sequence[int], i: int, number: int) -> _Level:
    sides = tuple(math.ceil(n / (config.subvoxel * 2**i)) for n in size)
    rows = slab_rows(sides, normalised=config.norm != "none")
    plane = number * math.prod(sides[1:])
    reach = min(sides[0], rows + 2 * config.convolutions)
    return _Level(
        width=min(config.width * 2**i, config.max_width),
        channel=plane * sides[0],
        slab=plane * reach,
        whole=rows >= sides[0],
    )


def _ending(level: _Level, classes: int, number: int) -> int:
    """Bytes of a slab's output, logits and posteriors, in the last block and behind it."""
    logits = level.slab * classes
    return level.slab * level.width + logits * (3 * _FLOAT) // number
