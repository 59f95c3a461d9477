"""Fit a training into the memory there is, before it starts."""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..config import LearnConfig
from ..errors import ConfigError, TrainingError
from .room import free_bytes

if TYPE_CHECKING:
    import torch

    from ..bilevel.memory import StepMemory
    from ..bilevel.processes import Processes
    from ..bilevel.training import TrainingData

__all__ = ["Plan", "plan_memory"]

logger = logging.getLogger(__name__)

_USABLE = 0.9
"""Share of the free memory that a step may take; the rest is for what is not predicted."""
_TRIED = {2: 64, 3: 32}
"""Side of the crop on which an augmentation is tried, working voxels."""
_LEAST_SIDE = 32
"""Sides of crops do not go below this, nor below four times what the network halves."""


@attrs.frozen(kw_only=True)
class Plan:
    """How a training is run so that it fits."""

    config: LearnConfig
    """The settings, changed if need be."""
    data: "TrainingData"
    """The data; where images are cropped, with a generator that does."""
    changes: list[dict[str, Any]]
    """What was changed, and why; empty if nothing was."""
    record: dict[str, Any]
    """What was predicted, for the model's record."""


def plan_memory(
    config: LearnConfig,
    data: "TrainingData",
    n_classes: int,
    *,
    device: "torch.device",
    checkpoint: Path | None = None,
    processes: "Processes | None" = None,
    memory_bytes: int | None = None,
) -> Plan:
    """Predict what a training step takes, and spare memory where there is too little.

    Nothing is changed where a step fits. Otherwise, and only as far as the settings are not given:
    activations are computed again in the backward passes, then images pass the network in
    micro-batches, then images are crops. The first two change the result by rounding at most. A run
    that is resumed keeps what it was started with.

    Parameters
    ----------
    config : LearnConfig
        As asked for; ``training.fit_memory`` turns all this off.
    data : TrainingData
        What is trained on.
    n_classes : int
        Classes, background included.
    device : torch.device
        Where is trained.
    checkpoint : Path, optional
        Of the run, if it may have been started before.
    processes : Processes, optional
        That share the batches; the first decides for all.
    memory_bytes : int, optional
        Most that a step of this process may take, even if more is free.

    Returns
    -------
    Plan

    Raises
    ------
    ConfigError
        If not even the smallest crop fits.
    """
    from ..bilevel.processes import Processes

    shared = processes or Processes()
    before = _kept(checkpoint)
    started = _changed(config, before[-1]) if before else config
    unchanged = Plan(config=started, data=_cropped(data, started), changes=before, record={})
    if not config.training.fit_memory:
        return unchanged
    # First, as it draws the random numbers that are kept.
    predictor = _Predictor.of(started, data, n_classes, device, shared)
    free = _free(device, shared)
    if free is None:
        return unchanged
    free = min(free, memory_bytes or free)
    asked = predictor(started)
    record = {
        "free_gb": round(free / 1e9, 2),
        "asked_for_gb": round(asked.gb, 2),
        **{f"{name}_gb": round(predictor(started, name).gb, 2) for name in predictor.estimators},
    }
    resumed = checkpoint is not None and checkpoint.exists()
    for chosen in predictor.ladder(started, may_crop=not resumed):
        found = predictor(chosen)
        if found.total <= _USABLE * free:
            break
    if found.total > free:
        raise ConfigError(_too_much(predictor, chosen, found, free, device))
    changes = list(before)
    if chosen != started:
        changes.append(_entry(predictor, chosen, asked, found, free, device))
        logger.warning("%s", changes[-1]["why"])
    else:
        logger.info(
            "a training step takes about %s, %s are free (%s)",
            _in_words(found.total),
            _in_words(free),
            device,
        )
    record["predicted_gb"] = round(found.gb, 2)
    return Plan(config=chosen, data=_cropped(data, chosen), changes=changes, record=record)


def _kept(checkpoint: Path | None) -> list[dict[str, Any]]:
    """Read what a run was started with; whether its checkpoint can be used is seen later."""
    from ..bilevel.checkpoints import Checkpoints

    try:
        state = Checkpoints(checkpoint).load() if checkpoint is not None else None
    except TrainingError:
        return []
    return list(state.memory) if state is not None else []


def _free(device: "torch.device", processes: "Processes") -> int | None:
    """Bytes for each process, on the machine where there is least."""
    own = free_bytes(device)
    found = processes.merged([own])
    known = [value for value in found if value is not None]
    if len(known) < len(found):
        return None
    # Those of one machine are taken to share its memory.
    return min(known) // (1 if device.type == "cuda" else processes.size)


def _changed(config: LearnConfig, change: Mapping[str, Any]) -> LearnConfig:
    crop = {"synthesis__crop": change["crop"]} if change.get("crop") else {}
    return config.evolve(
        training__checkpoint_activations=change["checkpoint_activations"],
        training__micro_batch_size=change["micro_batch_size"],
        **crop,
    )


def _cropped(data: "TrainingData", config: LearnConfig) -> "TrainingData":
    if data.synthesizer.config == config.synthesis:
        return data
    return attrs.evolve(data, synthesizer=attrs.evolve(data.synthesizer, config=config.synthesis))


@attrs.frozen(kw_only=True)
class _Predictor:
    """Predicts steps of a run under other settings."""

    n_classes: int
    whole: tuple[int, ...]
    """Size of the working grid."""
    device: str
    processes: int
    augmentation: float
    """Bytes that it keeps for each working voxel."""
    estimators: tuple[str, ...]
    """Kinds of steps of the run, the most expensive that is likely last."""

    @classmethod
    def of(
        cls,
        config: LearnConfig,
        data: "TrainingData",
        n_classes: int,
        device: "torch.device",
        processes: "Processes",
    ) -> "_Predictor":
        estimators: tuple[str, ...] = ("plain",)
        kept = 0.0
        if config.training.mode.startswith("learn2synth"):
            asked = config.training.estimator
            estimators += {
                "auto": ("exact", "one_sided_difference", "central_difference"),
            }.get(asked, (asked,))
            kept = _kept_by_augmentation(config, data)
        return cls(
            n_classes=n_classes,
            whole=data.synthesizer.working_shape,
            device=device.type,
            processes=processes.size,
            augmentation=kept,
            estimators=estimators,
        )

    def __call__(self, config: LearnConfig, estimator: str | None = None) -> "StepMemory":
        from ..bilevel.memory import predict

        return predict(
            config,
            self.n_classes,
            config.synthesis.crop or self.whole,
            estimator=estimator or self.estimators[-1],
            device=self.device,
            processes=self.processes,
            augmentation=self.augmentation,
        )

    def ladder(self, config: LearnConfig, *, may_crop: bool) -> Iterator[LearnConfig]:
        """Give settings that take less and less, in the order of what they cost."""
        t, crop = config.training, config.synthesis.crop
        yield config
        if not t.checkpoint_activations:
            config = config.evolve(training__checkpoint_activations=True)
            yield config
        if t.micro_batch_size is None:
            size = max(t.batch_size // self.processes, t.real_batch_size // self.processes)
            while size > 1:
                size //= 2
                config = config.evolve(training__micro_batch_size=size)
                yield config
        if crop is None and may_crop:
            for sides in self.crops(config):
                yield config.evolve(synthesis__crop=sides)

    def crops(self, config: LearnConfig) -> Iterator[tuple[int, ...]]:
        """Give sizes of crops that the network can take, downwards."""
        s = config.segmenter
        multiple = 2 ** (s.depth - 1) * s.subvoxel
        least = -(-max(_LEAST_SIDE, 4 * multiple) // multiple) * multiple
        last = self.whole
        for tenths in range(9, 0, -1):
            sides = tuple(
                min(n, max(least, tenths * n // (10 * multiple) * multiple)) for n in self.whole
            )
            if math.prod(sides) < math.prod(last):
                last = sides
                yield sides


def _kept_by_augmentation(config: LearnConfig, data: "TrainingData") -> float:
    """Bytes that the augmentation's graph keeps for each working voxel, tried on small crops."""
    import torch

    from ..augmentation import build_augmentation
    from ..bilevel.memory import saved_bytes

    generator, side = data.synthesizer, _TRIED[config.segmenter.ndim]
    crop = tuple(min(n, side) for n in generator.image_shape)
    small = attrs.evolve(generator, config=attrs.evolve(generator.config, crop=crop))
    with torch.random.fork_rng(devices=[]):
        augmentation = build_augmentation(
            config.augmentation.name,
            ndim=config.segmenter.ndim,
            group_names=generator.labels.group_names,
            options=config.augmentation.options,
        )
    neutral = augmentation.replaces_intensities
    sizes = []
    for seed in range(4):
        sample = small.render([small.draw(seed, label_map=0, appearance=not neutral)])
        sizes.append(saved_bytes(lambda sample=sample: augmentation(sample)))  # type: ignore[misc]
    return max(sizes) / math.prod(crop)


def _entry(
    predictor: _Predictor,
    chosen: LearnConfig,
    asked: "StepMemory",
    found: "StepMemory",
    free: int,
    device: "torch.device",
) -> dict[str, Any]:
    """Write down a change, in words too."""
    t, crop = chosen.training, chosen.synthesis.crop
    means = ["activations are computed again in the backward passes"]
    if t.micro_batch_size is not None:
        means.append(f"{t.micro_batch_size} image(s) pass the network at a time")
    cost = "This takes longer and changes the result by rounding only."
    if crop is not None:
        sides, whole = (" x ".join(map(str, size)) for size in (crop, predictor.whole))
        means.append(f"images are random crops of {sides} of the {whole} voxels")
        cost = "Crops change the result: the network sees less around each voxel."
    why = (
        f"a training step would take about {_in_words(asked.total)}, and {_in_words(free)} are free "
        f"({device}); so that it takes about {_in_words(found.total)}, {', and '.join(means)}. {cost}"
    )
    return {
        "step": 0,
        "checkpoint_activations": t.checkpoint_activations,
        "micro_batch_size": t.micro_batch_size,
        "crop": list(crop) if crop else None,
        "why": why,
    }


def _too_much(
    predictor: _Predictor,
    chosen: LearnConfig,
    found: "StepMemory",
    free: int,
    device: "torch.device",
) -> str:
    sides = " x ".join(map(str, chosen.synthesis.crop or predictor.whole))
    parts = sorted(
        ((value, name) for name, value in attrs.asdict(found).items()), key=lambda pair: -pair[0]
    )
    most = ", ".join(f"{name} {_in_words(value)}" for value, name in parts[:3])
    return (
        f"a training step takes about {_in_words(found.total)} with as little as is sensible (images of "
        f"{sides} voxels; {most}), and {_in_words(free)} are free ({device}): use a device with more "
        "memory, raise --spacing-mm, lower segmenter.width or synthesis.oversampling, or set "
        "training.fit_memory to false to try all the same"
    )


def _in_words(size: int) -> str:
    """Size in GB, or in MB if it is small.

    >>> _in_words(12_340_000_000), _in_words(98_700_000)
    ('12.3 GB', '99 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"
