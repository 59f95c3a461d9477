"""Pydra tasks, one a step; also importable as ``pydra.tasks.l2s``.

Each task only calls a function of :mod:`l2s_pydra.steps` and names what it wrote. Files are typed
with ``fileformats``, so that Pydra hashes their content; ``code_version`` is an input because Pydra
hashes a task's own function and not the library behind it; where a task runs (:class:`Resources`)
is no part of its hash.

:class:`LearnSynthesis` and :class:`TrainSegmenter` are the two halves of the method. :class:`Learn`
trains in any mode, as the settings say; it is what the application runs, as are :class:`Assess` and
:class:`Preview`.
"""

from .assess import Assess
from .estimate_priors import EstimatePriors
from .evaluate import Evaluate
from .learn import Learn
from .learn_synthesis import LearnSynthesis
from .preview import Preview
from .resources import Image, Resources
from .segment import Segment
from .synthesize_images import SynthesizeImages
from .train_segmenter import TrainSegmenter

__all__ = [
    "Assess",
    "EstimatePriors",
    "Evaluate",
    "Image",
    "Learn",
    "LearnSynthesis",
    "Preview",
    "Resources",
    "Segment",
    "SynthesizeImages",
    "TrainSegmenter",
]
