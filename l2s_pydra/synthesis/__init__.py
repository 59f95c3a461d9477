"""The generator G: synthetic images from label maps, nothing learned."""

from .draw import SynthesisDraw
from .sample import Sample
from .synthesizer import GenerationLabels, Synthesizer

__all__ = ["GenerationLabels", "Sample", "SynthesisDraw", "Synthesizer"]
