"""A small head in blocks, and a generator of images from it."""

import pytest
import torch

from l2s_pydra.config import SynthesisConfig
from l2s_pydra.synthesis import GenerationLabels, Synthesizer

# Generation labels: outside, left, right, middle, and tissue that is background to the segmenter.
LEFT, RIGHT, MIDDLE, TISSUE = 1, 2, 3, 4


def label_map(size):
    """Tissue around a left, a middle and a right block, with air around it all."""
    labels = torch.zeros(size, dtype=torch.uint8)
    labels[tuple(slice(n // 8, -(n // 8)) for n in size)] = TISSUE
    inner = [slice(n // 4, -(n // 4)) for n in size[1:]]
    x = size[0]
    labels[(slice(x // 4, 5 * x // 12), *inner)] = LEFT
    labels[(slice(5 * x // 12, 7 * x // 12), *inner)] = MIDDLE
    labels[(slice(7 * x // 12, 3 * x // 4), *inner)] = RIGHT
    return labels


@pytest.fixture
def still():
    """Settings without deformation."""
    return {
        "rotation_deg": 0,
        "scaling": 0,
        "shearing": 0,
        "translation_mm": 0,
        "nonlinear_std_mm": 0,
        "flip": 0,
    }


@pytest.fixture
def sharp():
    """Settings without artefacts, at full resolution."""
    return {"resolution_share": 0, "ghost_share": 0, "motion_share": 0}


@pytest.fixture
def plain(still, sharp):
    """Settings with which nothing but the Gaussian mixture is drawn."""
    return {**still, **sharp, "bias_std": 0, "gamma_std": 0, "noise_std": 0}


@pytest.fixture
def labels():
    return GenerationLabels(
        group=torch.tensor([0, 1, 1, 2, 3], dtype=torch.uint8),
        channel=torch.tensor([0, 1, 2, 3, 0]),
        group_names=("outside", "sided", "middle", "tissue"),
        swap=torch.tensor([0, RIGHT, LEFT, MIDDLE, TISSUE], dtype=torch.uint8),
        n_channels=4,
    )


@pytest.fixture
def make(labels):
    def make(size=(32, 40), *, background_always=True, maps=1, **settings):
        return Synthesizer(
            label_maps=[label_map(size).roll(i, 0) for i in range(maps)],
            labels=labels,
            config=SynthesisConfig(**settings),
            spacing_mm=2.0,
            background_always=background_always,
        )

    return make
