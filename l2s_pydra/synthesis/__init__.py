"""The generator G: synthetic images from label maps, nothing learned."""

from .draw import SynthesisDraw
from .synthesizer import GenerationLabels, Sample, Synthesizer

__all__ = ["GenerationLabels", "Sample", "SynthesisDraw", "Synthesizer"]
