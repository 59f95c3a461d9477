"""The two halves of the method as steps of their own: learn a synthesis; train with a given one.

Both are trainings by :func:`~l2s_pydra.steps.learn.learn`; what they add is which settings go with
them, and that a synthesis can be handed from one to the other.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import MODES, LearnConfig
from ..errors import ConfigError
from ..jsonfiles import read_json
from .generator_file import read_generator
from .learn import learn

__all__ = [
    "FIXED_MODES",
    "LEARNING_MODES",
    "learn_synthesis",
    "train_segmenter",
    "with_synthesis",
]

logger = logging.getLogger(__name__)

LEARNING_MODES = tuple(mode for mode in MODES if mode.startswith("learn2synth"))
"""Modes in which the synthesis is learned."""
FIXED_MODES = tuple(mode for mode in MODES if mode not in LEARNING_MODES and mode != "supervised")
"""Modes with synthetic images in which it is not."""


def learn_synthesis(*, config: Mapping[str, Any], **arguments: Any) -> Path:
    """Learn how synthetic images shall look, together with a segmenter.

    Parameters
    ----------
    config : mapping
        A :class:`~l2s_pydra.config.LearnConfig` as a dict, of a mode in which theta is learned.
    **arguments
        Those of :func:`~l2s_pydra.steps.learn.learn`.

    Returns
    -------
    Path
        The model folder; ``theta.json``, ``generator.json`` and ``priors.json`` in it are the synthesis.

    Raises
    ------
    ConfigError
        If theta is fixed in the mode.
    L2SError
        As :func:`~l2s_pydra.steps.learn.learn`.
    """
    settings = LearnConfig.from_dict(config)
    if settings.training.mode not in LEARNING_MODES:
        raise ConfigError(
            f"training.mode is {settings.training.mode!r}, in which no synthesis is learned; set it to "
            f"{' or '.join(map(repr, LEARNING_MODES))}, or use TrainSegmenter"
        )
    return learn(config=settings.to_dict(), **arguments)


def train_segmenter(
    *,
    config: Mapping[str, Any],
    mode: str = "synthseg",
    generator: Path | None = None,
    theta: Path | None = None,
    priors: Path | None = None,
    **arguments: Any,
) -> Path:
    """Train a segmenter with a synthesis that stays as it is.

    Parameters
    ----------
    config : mapping
        A :class:`~l2s_pydra.config.LearnConfig` as a dict; its mode does not count.
    mode : str, default="synthseg"
        Mode of the training, out of :data:`FIXED_MODES`.
    generator, theta, priors : Path, optional
        Those of :func:`with_synthesis`; without them, the ranges in ``config``.
    **arguments
        Those of :func:`~l2s_pydra.steps.learn.learn`.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    ConfigError
        If the mode, or a file of the synthesis, cannot be used.
    L2SError
        As :func:`~l2s_pydra.steps.learn.learn`.
    """
    if mode not in FIXED_MODES:
        raise ConfigError(
            f"mode {mode!r} is not one with a given synthesis; available: "
            f"{', '.join(map(repr, FIXED_MODES))}"
        )
    settings = with_synthesis(
        LearnConfig.from_dict(config).evolve(training__mode=mode),
        generator=generator,
        theta=theta,
        priors=priors,
    )
    return learn(config=settings.to_dict(), **arguments)


def with_synthesis(
    config: LearnConfig,
    *,
    generator: Path | None = None,
    theta: Path | None = None,
    priors: Path | None = None,
) -> LearnConfig:
    """Put a synthesis that was learned or measured elsewhere into settings.

    Parameters
    ----------
    config : LearnConfig
        The settings.
    generator : Path, optional
        ``generator.json`` of a model: replaces the ranges, the augmentation, the values of theta and the
        share of images that are drawn from them. The size of a crop stays.
    theta : Path, optional
        ``theta.json`` of a model: values for the augmentation in ``config``.
    priors : Path, optional
        ``priors.json``, measured in labelled images.

    Returns
    -------
    LearnConfig

    Raises
    ------
    ConfigError
        If a file cannot be used, or both ``generator`` and ``theta`` are given.
    """
    if generator is not None and theta is not None:
        raise ConfigError(
            f"{theta}: {generator} holds values of theta too; give either of the two files"
        )
    if generator is not None:
        config = _with_generator(config, Path(generator))
    if theta is not None:
        config = _with_file(config, Path(theta), "augmentation__theta")
    if priors is not None:
        config = _with_file(config, Path(priors), "synthesis__priors")
    return config


def _with_generator(config: LearnConfig, path: Path) -> LearnConfig:
    found = read_generator(path)
    if found["spacing_mm"] != config.spacing_mm:
        logger.warning(
            "%s: was learned at %g mm, the training is at %g mm; noise and spread are meant at the former",
            path,
            found["spacing_mm"],
            config.spacing_mm,
        )
    values = config.to_dict()
    synthesis = {**found["synthesis"], "crop": values["synthesis"]["crop"]}
    augmentation = found["augmentation"]
    if augmentation.get("name") == values["augmentation"]["name"]:
        augmentation = {**values["augmentation"], **augmentation}
    for section, changes in (
        ("synthesis", synthesis),
        ("training", found["training"]),
    ):
        values[section] = {**values[section], **changes}
    values["augmentation"] = augmentation or {**values["augmentation"], "theta": None}
    try:
        return LearnConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _with_file(config: LearnConfig, path: Path, setting: str) -> LearnConfig:
    try:
        return config.evolve(**{setting: read_json(path)})
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be used ({error}); give the file of a model folder"
        ) from error
