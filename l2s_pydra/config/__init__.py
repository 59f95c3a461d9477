"""Settings: frozen attrs classes, to and from JSON.

The same JSON goes to the builders, beside the weights, into provenance and into Pydra's hash.
"""

from .augmentation import AugmentationConfig
from .fields import field_doc
from .learn import LearnConfig
from .presets import PRESETS, preset
from .segmenter import SegmenterConfig
from .synthesis import REPEAT_SHARE, SynthesisConfig
from .training import ESTIMATORS, MODES, TrainingConfig

__all__ = [
    "ESTIMATORS",
    "MODES",
    "PRESETS",
    "REPEAT_SHARE",
    "AugmentationConfig",
    "LearnConfig",
    "SegmenterConfig",
    "SynthesisConfig",
    "TrainingConfig",
    "field_doc",
    "preset",
]
