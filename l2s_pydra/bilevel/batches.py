"""What a training run trains on, and the batches it draws from that."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import attrs
import numpy as np
import torch
from torch import Tensor

from ..config import TrainingConfig
from ..normalisation import normalise
from ..synthesis import Sample, SynthesisDraw, Synthesizer, intensity
from ..targets import mirror_target
from .processes import Processes

__all__ = ["Ahead", "Batches", "RealScan", "TrainingData", "random_contrast"]

_T = TypeVar("_T")

_DARK = 0.04
"""Normalised intensity up to which a random contrast leaves everything as it is."""
_STREAMS = {"synthetic": 1, "choice": 2, "real": 3, "kind": 4, "remap": 5}


@attrs.frozen(kw_only=True, eq=False)
class RealScan:
    """A labelled real image on the working and on the fine grid, RAS orientation."""

    name: str
    """Participant and image."""
    image: Tensor
    """(*S,) float32 on the working grid, any intensity unit."""
    target: Tensor
    """(*S,) class of each voxel, or (K, *S) shares of the classes; see :mod:`l2s_pydra.targets`."""
    fine_image: Tensor
    """(*F,) float32."""
    fine_channels: Tensor
    """(*F,) uint8 or int16 class of each voxel."""
    voxel_mm: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Voxel size of the acquisition along the axes of the world, mm."""


@attrs.frozen(kw_only=True, eq=False)
class TrainingData:
    """What a run trains on; learning and validation scans are of different participants."""

    synthesizer: Synthesizer
    """Draws from all label maps."""
    own: Sequence[int]
    """Which label maps are those of the learning participants."""
    learn: Sequence[RealScan]
    """Scans of the outer level (2-D: slices); the training images of ``supervised``."""
    validate: Sequence[RealScan]
    """Scans for selection, always whole volumes."""
    statistics: Mapping[str, tuple[float, ...]]
    """Of each intensity group in the learning scans, normalised: mean, standard deviation and, if
    known, its part that is not shared by neighbouring voxels."""
    opposite: Sequence[int]
    """Channel on the other side of the body."""


@attrs.frozen(kw_only=True, eq=False)
class Batches:
    """Batches that depend on the seed and the number of the step only.

    Of several processes, each has its share of every batch.
    """

    config: TrainingConfig
    data: TrainingData
    device: torch.device
    processes: Processes = attrs.field(factory=Processes)
    _own: list[int] = attrs.field(init=False)
    _others: list[int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        own = sorted(set(self.data.own))
        object.__setattr__(self, "_own", own)
        count = len(self.data.synthesizer.label_maps)
        object.__setattr__(self, "_others", sorted(set(range(count)) - set(own)))

    def _rng(self, stream: str, step: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, _STREAMS[stream], step])

    def chance(self, step: int, stream: str = "choice") -> float:
        """Draw a number in [0, 1), the same in all processes."""
        return float(self._rng(stream, step).random())

    def draws(self, step: int, *, appearance: bool = True) -> list[SynthesisDraw]:
        """Draw what the synthetic batch of a step is made from, the shares of all processes."""
        rng, own, others = self._rng("synthetic", step), self._own, self._others
        draws = []
        for _ in range(self.config.batch_size):
            pick_own = rng.random() < self.config.own_label_share
            pool = (own if pick_own else others) or own or others
            draws.append(
                self.data.synthesizer.draw(
                    int(rng.integers(2**53)),
                    label_map=int(rng.choice(pool)),
                    appearance=appearance,
                )
            )
        return draws

    def sample(self, step: int, *, appearance: bool = True, count: int | None = None) -> Sample:
        """Render this process's share of the synthetic batch, or its first ``count`` images."""
        draws = self.processes.share(self.draws(step, appearance=appearance))
        where = torch.device("cpu") if self.config.synthesis_device == "cpu" else self.device
        return self.data.synthesizer.render(draws[:count], where).to(self.device)

    def real(
        self, step: int, count: int, *, augmented: bool, remapped: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Draw this process's share of ``count`` real images: (B, 1, *S), and their targets.

        A count that the processes cannot share evenly is drawn whole by each of them.

        ``augmented`` deforms them and changes their appearance as the generator would (for
        supervised training); otherwise they are only mirrored at random. The share ``remapped`` of
        them gets a random contrast.
        """
        rng, scans = self._rng("real", step), self.data.learn
        order = rng.permutation(len(scans))
        chosen = [
            (scans[int(order[i % len(scans)])], int(rng.integers(2**53)), rng.random(5))
            for i in range(count)
        ]
        if count % self.processes.size == 0:
            chosen = self.processes.share(chosen)
        realise = self._augmented if augmented else self._mirrored
        pairs = [realise(*choice) for choice in chosen]
        images = [
            random_contrast(image, seed) if chances[-1] < remapped else image
            for (image, _), (_, seed, chances) in zip(pairs, chosen, strict=True)
        ]
        targets = [target for _, target in pairs]
        return torch.stack(images)[:, None].to(self.device), torch.stack(targets).to(self.device)

    def _augmented(self, scan: RealScan, seed: int, _: Any) -> tuple[Tensor, Tensor]:
        synthesizer = self.data.synthesizer
        return synthesizer.augment(
            scan.fine_image,
            scan.fine_channels,
            synthesizer.draw(seed),
            opposite=self.data.opposite,
        )

    def _mirrored(self, scan: RealScan, _: int, chances: Any) -> tuple[Tensor, Tensor]:
        image, target = normalise(scan.image[None, None])[0, 0], scan.target
        if chances[0] < self.data.synthesizer.config.flip:
            image, target = image.flip(0), mirror_target(target, self.data.opposite)
        sides = self.data.synthesizer.image_shape
        starts = [
            int(chance * (n - side + 1))
            for chance, n, side in zip(chances[1:], image.shape, sides, strict=False)
        ]
        for axis, (start, side) in enumerate(zip(starts, sides, strict=True)):
            image = image.narrow(axis, start, side)
            target = target.narrow(axis - len(sides), start, side)
        return image, target


def random_contrast(image: Tensor, seed: int) -> Tensor:
    """Remap the intensities of an image at random.

    The map is piecewise linear through 3 to 7 random inner knots, and need not be monotone; black,
    and what is nearly black, stays as it is, so that the noise of air does not become tissue.

    Parameters
    ----------
    image : (*S,) tensor
        In about [0, 1].
    seed : int
        Decides the map.

    Returns
    -------
    (*S,) tensor, normalised
    """
    rng = np.random.default_rng([seed, 99])
    inner = np.sort(rng.uniform(_DARK, 1, int(rng.integers(3, 8))))
    knots = np.concatenate([[0.0, _DARK], inner, [1.0]])
    values = np.concatenate([[0.0, _DARK], rng.random(len(inner) + 1)])
    remapped = intensity.remap(image, *map(torch.from_numpy, (knots, values)))
    return normalise(remapped[None, None])[0, 0]


class Ahead(Generic[_T]):
    """Makes what the next steps will need in a thread, while a GPU is busy with this one.

    Parameters
    ----------
    make : callable
        ``make(step)``; depends on the step only.
    steps : int
        How many steps ahead; 0 makes everything when it is asked for.
    wanted : callable, optional
        ``wanted(step)``: whether anything will be asked for at that step; always by default.
    """

    def __init__(
        self, make: Callable[[int], _T], steps: int, wanted: Callable[[int], bool] | None = None
    ) -> None:
        self._make, self._steps, self._wanted = make, steps, wanted or (lambda _: True)
        self._pending: dict[int, Future[_T]] = {}
        self._pool = ThreadPoolExecutor(1) if steps else None

    def __call__(self, step: int, last: int) -> _T:
        """Return what ``step`` needs; nothing from ``last`` on is made ahead."""
        if self._pool is None:
            return self._make(step)
        for number in range(step, min(last, step + self._steps + 1)):
            if number not in self._pending and (number == step or self._wanted(number)):
                self._pending[number] = self._pool.submit(self._make, number)
        for number in [n for n in self._pending if n < step]:
            self._pending.pop(number).cancel()
        return self._pending.pop(step).result()

    def close(self) -> None:
        """Forget what was made ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pending.clear()
