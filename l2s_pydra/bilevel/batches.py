"""What a training run trains on, and the batches it draws from that."""

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from ..config import TrainingConfig
from ..normalisation import normalise
from ..synthesis import Sample, SynthesisDraw, Synthesizer
from .processes import Processes

__all__ = ["Batches", "RealScan", "TrainingData"]

_STREAMS = {"synthetic": 1, "choice": 2, "real": 3}


@attrs.frozen(kw_only=True, eq=False)
class RealScan:
    """A labelled real image on the working and on the fine grid, RAS orientation."""

    name: str
    """Participant and image."""
    image: Tensor
    """(*S,) float32 on the working grid, any intensity unit."""
    target: Tensor
    """(K, *S) share of each class in each voxel."""
    fine_image: Tensor
    """(*F,) float32."""
    fine_channels: Tensor
    """(*F,) uint8 or int16 class of each voxel."""


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
    statistics: Mapping[str, tuple[float, float]]
    """Mean and standard deviation of each intensity group in the learning scans, in [0, 1]."""
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

    def chance(self, step: int) -> float:
        """Draw a number in [0, 1), the same in all processes."""
        return float(self._rng("choice", step).random())

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
        return self.data.synthesizer.render(draws[:count], self.device)

    def real(self, step: int, count: int, *, augmented: bool) -> tuple[Tensor, Tensor]:
        """Draw this process's share of ``count`` real images: (B, 1, *S), and (B, K, *S) targets.

        A count that the processes cannot share evenly is drawn whole by each of them.

        ``augmented`` deforms them and changes their appearance as the generator would (for
        supervised training); otherwise they are only mirrored at random.
        """
        rng, scans = self._rng("real", step), self.data.learn
        order = rng.permutation(len(scans))
        chosen = [
            (scans[int(order[i % len(scans)])], int(rng.integers(2**53)), float(rng.random()))
            for i in range(count)
        ]
        if count % self.processes.size == 0:
            chosen = self.processes.share(chosen)
        realise = self._augmented if augmented else self._mirrored
        images, targets = zip(*(realise(*choice) for choice in chosen), strict=True)
        return torch.stack(images)[:, None].to(self.device), torch.stack(targets).to(self.device)

    def _augmented(self, scan: RealScan, seed: int, _: float) -> tuple[Tensor, Tensor]:
        synthesizer = self.data.synthesizer
        return synthesizer.augment(
            scan.fine_image,
            scan.fine_channels,
            synthesizer.draw(seed),
            opposite=self.data.opposite,
        )

    def _mirrored(self, scan: RealScan, _: int, chance: float) -> tuple[Tensor, Tensor]:
        image, target = normalise(scan.image[None, None])[0, 0], scan.target
        if chance < self.data.synthesizer.config.flip:
            image, target = image.flip(0), target.flip(1)[list(self.data.opposite)]
        return image, target
