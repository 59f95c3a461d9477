"""Figures and HTML pages."""

from .colors import hex_color, label_colors
from .curves import learned_values, theta_over_time, training_curves
from .figures import SampleImage, overlay_mosaic, sample_mosaic
from .pages import group_page, model_page, participant_page
from .statistics import ImageValue

__all__ = [
    "ImageValue",
    "SampleImage",
    "group_page",
    "hex_color",
    "label_colors",
    "learned_values",
    "model_page",
    "overlay_mosaic",
    "participant_page",
    "sample_mosaic",
    "theta_over_time",
    "training_curves",
]
