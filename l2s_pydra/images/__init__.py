"""Volumes and the way to the working grid and back."""

from .conform import Conform
from .saving import save_float, save_labels, save_probabilities
from .volume import (
    Volume,
    check_same_grid,
    load_image,
    load_labels,
    voxel_volume_mm3,
)

__all__ = [
    "Conform",
    "Volume",
    "check_same_grid",
    "load_image",
    "load_labels",
    "save_float",
    "save_labels",
    "save_probabilities",
    "voxel_volume_mm3",
]
