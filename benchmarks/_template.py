"""Dice on the ICBM 152 template with its own tissue maps, which nilearn has on board: a fixed point.

The template is an average of 152 heads, without skull and without noise, and its maps know grey and
white matter only. What a model makes of it says little about single heads, but the same weights always
have to make the same of it.
"""

from typing import Any

import nibabel
import numpy as np

from l2s_pydra.steps.api import LoadedModel

GREY = ("cortex", "thalamus", "caudate", "putamen", "hippocampus", "amygdala", "accumbens")
"""Words in the names of labels that are grey matter in the maps."""
WHITE = ("white matter", "brain stem", "pallidum", "ventraldc")


def tissue(labels: Any, model: LoadedModel, words: tuple[str, ...]) -> Any:
    """Mask of the labels whose names hold one of some words."""
    names = {
        label.index: label.name.lower().replace("-", " ") for label in model.model.scheme.labels
    }
    return np.isin(labels, [i for i, name in names.items() if any(word in name for word in words)])


def template_dice(model: LoadedModel, *, threads: int = 1) -> dict[str, float]:
    """Dice of grey and of white matter with the maps of the template, at 2 mm.

    A single voxel is white or grey if the map says so with at least one half.
    """
    from nilearn.datasets import (
        load_mni152_gm_template,
        load_mni152_template,
        load_mni152_wm_template,
    )

    image = load_mni152_template(resolution=2)
    plain = nibabel.Nifti1Image(np.asarray(image.get_fdata(), np.float32), image.affine)
    found = model.segment(plain, device="cpu", threads=threads)
    labels = np.asarray(found.labels.dataobj)
    scores = {}
    for name, load, words in (
        ("grey", load_mni152_gm_template, GREY),
        ("white", load_mni152_wm_template, WHITE),
    ):
        truth = load(resolution=2).get_fdata() >= 0.5
        mine = tissue(labels, model, words)
        both = int(truth.sum()) + int(mine.sum())
        scores[name] = round(2 * int((truth & mine).sum()) / both, 4)
    return scores
