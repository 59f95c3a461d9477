import numpy as np
import pytest

from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.steps.components import Removed
from l2s_pydra.steps.flags import (
    asymmetry_flags,
    field_of_view_flags,
    removal_flags,
    score_flags,
)

SCHEME = LabelScheme(
    [
        Label(index=1, name="Left-Putamen"),
        Label(index=2, name="Right-Putamen"),
        Label(index=3, name="Left-Lateral-Ventricle"),
        Label(index=4, name="Right-Lateral-Ventricle"),
        Label(index=5, name="cerebellum"),
        Label(index=6, name="skin"),
    ]
)


def test_a_cut_structure_is_told_with_the_coordinate_of_the_end():
    channels = np.zeros((10, 12, 8), dtype=np.int16)
    channels[3:6, 3:6, :3] = 5
    channels[:, :, -1] = 6
    # Second axis to the right, third axis up in steps of 2 mm
    affine = np.array([[0.0, 1, 0, -5], [1, 0, 0, 0], [0, 0, 2, -61], [0, 0, 0, 1]])
    (flag,) = field_of_view_flags(channels, affine, SCHEME)
    assert flag.structures == ("cerebellum",)
    assert flag.text.startswith("cerebellum: the field of view ends at z = -62 mm (inferior)")
    affine[0, 3] = -1
    left, _ = field_of_view_flags(channels[:, 4:], affine, SCHEME)
    assert "x = -2 mm (left)" in left.text


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_not_cut_across(axis):
    shape = [9, 9, 9]
    shape[axis] = 1
    channels = np.zeros(shape, dtype=np.int16)
    channels[tuple(slice(2, 7) if n > 1 else slice(None) for n in shape)] = 5
    assert field_of_view_flags(channels, np.eye(4), SCHEME) == []


def row(name, predicted, own=0.9, volume=1000.0):
    values = {"predicted_dice": predicted, "self_dice": own, "volume_mm3": volume}
    return {"name": name, **values}


def test_low_scores_are_told_against_what_they_should_be():
    quality = {
        "error": 0.04,
        "lines": {name: {"validation_dice": 0.85} for name in SCHEME.names[1:]},
    }
    rows = [row("Left-Putamen", 0.8), row("Right-Putamen", 0.7), row("cerebellum", 0.3)]
    low, lower = score_flags(rows, quality)
    assert low.text == "predicted Dice below 0.5: cerebellum 0.30"
    assert lower.text.endswith("(in brackets): Right-Putamen 0.70 (0.85)")
    assert score_flags(rows[:2], {**quality, "error": 0.2}) == []


def test_without_calibration_the_agreement_is_told():
    (flag,) = score_flags([row("a", None, 0.5), row("b", None, 0.9), row("c", None, None)], None)
    assert flag.structures == ("a",)
    assert "unsure" in flag.text


def test_one_side_much_larger_than_the_other():
    rows = [
        row("Left-Putamen", None, volume=2000.0),
        row("Right-Putamen", None, volume=5000.0),
        row("Left-Lateral-Ventricle", None, volume=9000.0),
        row("Right-Lateral-Ventricle", None, volume=4000.0),
    ]
    (flag,) = asymmetry_flags(rows, SCHEME)
    assert "2.00 ml, Right-Putamen 5.00 ml: one side is 2.5 times" in flag.text
    rows[1]["volume_mm3"] = 0.0  # missing: told of elsewhere
    assert asymmetry_flags(rows, SCHEME) == []


def test_a_structure_that_lost_much_may_be_two():
    channels = np.zeros((10, 10, 1), dtype=np.int16)
    channels[:5] = 5
    lost = [Removed(channel=5, pieces=1, voxels=50)]
    (flag,) = removal_flags(channels, lost, SCHEME)
    assert flag.text.startswith("cerebellum: 50 % of it was taken away")
    assert removal_flags(channels, [Removed(channel=5, pieces=2, voxels=3)], SCHEME) == []
