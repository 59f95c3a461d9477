"""Figures and HTML pages."""

from .colors import hex_color, label_colors
from .curves import learned_values, theta_over_time, training_curves
from .figures import SampleImage, overlay_mosaic, sample_mosaic
from .intervals import prior_intervals
from .pages import group_page, model_page, participant_page, preview_page
from .sheets import draw_sheet
from .statistics import ImageValue

__all__ = [
    "ImageValue",
    "SampleImage",
    "draw_sheet",
    "group_page",
    "hex_color",
    "label_colors",
    "learned_values",
    "model_page",
    "overlay_mosaic",
    "participant_page",
    "preview_page",
    "prior_intervals",
    "sample_mosaic",
    "theta_over_time",
    "training_curves",
]
