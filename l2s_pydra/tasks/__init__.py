"""Pydra tasks, one a step.

Each task only calls a function of :mod:`l2s_pydra.steps` and names what it wrote. Files are typed
with ``fileformats``, so that Pydra hashes their content; ``code_version`` is an input because Pydra
hashes a task's own function and not the library behind it; where a task runs (:class:`Resources`)
is no part of its hash.
"""

from .assess import Assess
from .estimate_priors import EstimatePriors
from .evaluate import Evaluate
from .learn import Learn
from .preview import Preview
from .resources import Image, Resources
from .segment import Segment

__all__ = [
    "Assess",
    "EstimatePriors",
    "Evaluate",
    "Image",
    "Learn",
    "Preview",
    "Resources",
    "Segment",
]
