"""All settings of a training, to and from JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from attrs import validators

from ..errors import ConfigError
from ..jsonfiles import read_json
from ..values import positive
from .augmentation import AugmentationConfig
from .segmenter import SegmenterConfig
from .synthesis import SynthesisConfig
from .training import TrainingConfig

__all__ = ["LearnConfig"]

_T = TypeVar("_T")


def _nested(kind: type) -> Any:
    return attrs.field(
        factory=kind,
        converter=lambda v: _structure(kind, v),
        validator=validators.instance_of(kind),
    )


@attrs.frozen(kw_only=True)
class LearnConfig:
    """Everything that decides what a training run computes, except the data."""

    spacing_mm: float = attrs.field(default=1.0, validator=positive)
    """Voxel size of the working grid, mm, isotropic."""
    synthesis: SynthesisConfig = _nested(SynthesisConfig)
    """The generator."""
    segmenter: SegmenterConfig = _nested(SegmenterConfig)
    """The network."""
    augmentation: AugmentationConfig = _nested(AugmentationConfig)
    """The learned augmentation."""
    training: TrainingConfig = _nested(TrainingConfig)
    """The loop."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LearnConfig":
        """Build from nested dicts, as :meth:`to_dict` writes them.

        Raises
        ------
        ConfigError
            If a setting is unknown or out of range.
        """
        return _structure(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain values."""
        return attrs.asdict(self)

    def to_json(self) -> str:
        """JSON, sorted and indented."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> "LearnConfig":
        """Read the JSON that :meth:`to_json` writes.

        Raises
        ------
        ConfigError
            If the file is unreadable, or a setting is unknown or out of range.
        """
        try:
            values = read_json(path)
            return cls.from_dict(values)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be used as a configuration ({error})") from error

    def evolve(self, **changes: Any) -> "LearnConfig":
        """Copy with changes; nested settings are spelled ``section__name``.

        Raises
        ------
        ConfigError
            If a setting is unknown or out of range.

        Examples
        --------
        >>> LearnConfig().evolve(spacing_mm=2, training__steps=10).training.steps
        10
        """
        values = self.to_dict()
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            if section and not isinstance(values.get(section), dict):
                raise ConfigError(f"unknown section {section!r} in {type(self).__name__}")
            (values[section] if section else values)[name] = value
        return self.from_dict(values)


def _structure(kind: type[_T], values: Any) -> _T:
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{kind.__name__}: settings by name are expected, not {values!r}")
    names = {field.name for field in attrs.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(
            f"unknown setting {unknown[0]!r} in {kind.__name__}; available: {', '.join(sorted(names))}"
        )
    try:
        return kind(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        message = str(error.args[0]) if error.args else str(error)
        raise ConfigError(f"{kind.__name__}: {message}") from error
