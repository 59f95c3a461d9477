"""Nipype interfaces, one a step.

Each interface only calls a function of :mod:`l2s_pydra.steps` and names what it wrote. ``device``
and ``threads`` are not hashed; ``use_gpu`` is what Nipype's scheduler looks for; ``code_version``
is an input so that another version of the software does not serve old results.
"""

from .assess import Assess
from .derivatives import DerivativesDataSink
from .estimate_priors import EstimatePriors
from .evaluate import Evaluate
from .learn import Learn, LearnSynthesis, TrainSegmenter
from .segment import Segment
from .synthesize_images import SynthesizeImages

__all__ = [
    "Assess",
    "DerivativesDataSink",
    "EstimatePriors",
    "Evaluate",
    "Learn",
    "LearnSynthesis",
    "Segment",
    "SynthesizeImages",
    "TrainSegmenter",
]
