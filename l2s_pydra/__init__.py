"""Learn2Synth brain segmentation as a BIDS App, Pydra tasks and Nipype interfaces."""

__all__ = ["__version__"]

__version__ = "0.1.0"
