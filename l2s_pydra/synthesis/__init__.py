"""The generator G: synthetic images from label maps, nothing learned."""

from .synthesizer import GenerationLabels, Sample, SynthesisDraw, Synthesizer

__all__ = ["GenerationLabels", "Sample", "SynthesisDraw", "Synthesizer"]
