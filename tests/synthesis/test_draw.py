"""What a person reads under a picture, in mm, degrees and percent."""

import math

import attrs
import pytest
import torch

from l2s_pydra.config import SynthesisConfig
from l2s_pydra.synthesis import deformation
from l2s_pydra.synthesis.draw import Drawer

SHAPE = (48, 56, 40)


@pytest.fixture
def draw():
    drawer = Drawer(
        config=SynthesisConfig(channels=1),
        shape=SHAPE,
        spacing_mm=2.0,
        n_maps=3,
        group_names=("outside", "grey"),
        background_always=True,
    )
    return drawer(5)


def summary(draw):
    return draw.summary(spacing_mm=2.0, oversampling=2)


def test_geometry(draw):
    turned = deformation.affine_matrix([0, 0, math.radians(12)], [1.25] * 3, [0, 0, 0])
    shown = summary(
        attrs.evolve(draw, matrix=turned, translation=torch.tensor([3.0, 4.0, 0]), flip=True)
    )
    assert shown["rotation (degrees)"] == pytest.approx(12, abs=1e-3)
    # The affine leads from the image to the label map.
    assert shown["size (%)"] == pytest.approx(80, abs=1e-3)
    # Fine voxels of 1 mm.
    assert shown["shift (mm)"] == pytest.approx(5)
    assert shown["flipped"] == "yes"


def test_the_largest_displacement_is_that_of_the_field(draw):
    field = deformation.upsample(draw.displacement, SHAPE)
    largest = float(field.norm(dim=0).max())
    assert largest > 0
    # Evaluated at four points between nodes.
    assert summary(draw)["largest displacement (mm)"] == pytest.approx(largest, rel=0.02)
    assert summary(draw)["largest displacement (mm)"] < float(draw.displacement.norm(dim=0).max())


def test_the_bias_field_is_that_of_the_image(draw):
    strong = attrs.evolve(draw, log_bias=0.5 * torch.randn(draw.log_bias.shape))
    size = [n // 2 for n in SHAPE]
    field = deformation.upsample(strong.log_bias.exp(), size)
    low, high = map(float, str(summary(strong)["bias field (factor)"]).split(" to "))
    assert low == pytest.approx(float(field.min()), rel=0.02)
    assert high == pytest.approx(float(field.max()), rel=0.02)


def test_acquisition_and_artefacts(draw):
    shown = summary(
        attrs.evolve(
            draw,
            spacing=(1.0, 1.0, 3.0),
            thickness=(1.0, 1.0, 2.0),
            noise_std=(0.031,),
            rician=True,
            ghosts=(1, 3, 0.25),
            movements=torch.tensor([[0.2, 0.1, 0, 0, 1.5, 0, 2.0], [0.6, 0, -0.05, 0, 0, 0, 0]]),
            lesions=torch.tensor([[0.5, 4.0, 0.5, 0.1], [0.2, 2.0, 0.5, 0.1]]),
            background=False,
            margin=5.0,
        )
    )
    assert shown["slices every (mm)"] == "2.0 x 2.0 x 6.0"
    assert shown["slice profile (mm)"] == "2.0 x 2.0 x 4.0"
    assert shown["noise (% of the range)"] == "3.1, Rician"
    assert shown["ghosts"] == "3 along y, 25 %"
    assert shown["movements"] == "2, up to 5.7 degrees and 5.0 mm"
    assert shown["lesions"] == "2, radius up to 4.0 mm"
    assert shown["background"] == "5.0 mm around the structures"


def test_what_was_left_alone_is_not_mentioned(draw):
    shown = summary(
        attrs.evolve(
            draw,
            gamma=(1.0,),
            log_bias=torch.zeros_like(draw.log_bias),
            spacing=(1.0,) * 3,
            thickness=(1.0,) * 3,
            noise_std=(0.0,),
            ghosts=(0, 2, 0.0),
            movements=torch.zeros(0, 7),
            lesions=torch.zeros(0, 10),
            background=False,
            margin=0.0,
        )
    )
    assert list(shown) == [
        "label map",
        "flipped",
        "rotation (degrees)",
        "size (%)",
        "shift (mm)",
        "largest displacement (mm)",
        "background",
    ]
    assert shown["background"] == "no"
