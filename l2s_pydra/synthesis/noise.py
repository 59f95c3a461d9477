"""Standard normal numbers that are the same on every device, and cheap.

Random numbers are most of the cost of a synthetic image. Here they are drawn once, on the CPU, and
each image takes its own stretch of them: a copy of memory instead of a generator, and the same
numbers on a GPU.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["standard_normal"]

_COUNT = 2**24
_SEED = 20230724
_MASK = 2**64 - 1


@lru_cache(maxsize=8)
def _pool(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(_COUNT, generator=generator).to(device)


def standard_normal(
    seed: int, stream: int, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Return standard normal numbers that depend on ``seed`` and ``stream`` only.

    They are a stretch of 2**24 numbers that were drawn once, so that images of different seeds may
    have the same noise at a shift, and an image of more voxels repeats its own.

    Parameters
    ----------
    seed : int
        Of the image.
    stream : int
        Streams of one seed are unrelated.
    shape : sequence of int
        Of the result.
    device : torch.device or str, default="cpu"
        Where it is wanted.

    Returns
    -------
    (*shape) float32 tensor
        May share memory with later results: not to be changed in place.

    Examples
    --------
    >>> a, b = (standard_normal(7, stream, (2, 3)) for stream in (0, 1))
    >>> bool((a == standard_normal(7, 0, (6,)).view(2, 3)).all()), bool((a == b).any())
    (True, False)
    """
    count = math.prod(shape)
    pool = _pool(str(torch.device(device)))
    start = _mixed(seed * 2**20 + stream) % _COUNT
    pieces = []
    while count > 0:
        pieces.append(pool[start : start + count])
        count -= len(pieces[-1])
        start = 0
    flat = pieces[0] if len(pieces) == 1 else torch.cat(pieces) if pieces else pool[:0]
    return flat.view(tuple(shape))


def _mixed(value: int) -> int:
    """Scramble an integer (splitmix64; Steele et al., OOPSLA 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
