import numpy as np
import pytest

from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.steps.measures import COLUMNS, intracranial, structure_rows, table
from l2s_pydra.steps.quality import SoftMeasures

NAMES = ("grey", "white", "CSF", "skull")
SCHEME = LabelScheme([Label(index=10 * i, name=name) for i, name in enumerate(NAMES, start=1)])


@pytest.fixture
def rows():
    channels = np.array([0, 1, 1, 1, 2, 2, 3, 4], dtype=np.int16).reshape(8, 1, 1)
    soft = SoftMeasures(
        voxels=np.array([5.0, 2.5, 2.0, 1.5, 1.0]), self_dice=np.array([1, 0.9, 0.8, 0.7, np.nan])
    )
    return structure_rows(
        SCHEME, channels, soft, voxel_mm3=2.0, working_voxel_mm3=3.0, quality=None
    )


def test_volumes_are_voxels_of_their_own_grid(rows):
    assert [row["volume_mm3"] for row in rows] == [6, 4, 2, 2]
    assert [row["soft_volume_mm3"] for row in rows] == [7.5, 6, 4.5, 3]
    assert [row["self_dice"] for row in rows] == [0.9, 0.8, 0.7, None]


def test_the_inside_of_the_skull_is_all_but_what_lies_outside(rows):
    inside = intracranial(rows, SCHEME, stripped=False)
    assert inside.structures == ("grey", "white", "CSF")
    assert (inside.volume_mm3, inside.soft_volume_mm3) == (12, 18)
    assert intracranial(rows, SCHEME, stripped=True).volume_mm3 is None


def test_table_has_a_row_a_structure_and_the_sum(rows):
    text = table(rows, intracranial(rows, SCHEME, stripped=False))
    header, *lines = (line.split("\t") for line in text.splitlines())
    assert tuple(header) == COLUMNS
    assert lines[0] == ["10", "grey", "6.0", "7.5", "0.9", "n/a"]
    assert lines[-1] == ["n/a", "intracranial", "12.0", "18.0", "n/a", "n/a"]
    missing = table(rows, intracranial(rows, SCHEME, stripped=True)).splitlines()[-1]
    assert missing.split("\t")[2:] == ["n/a"] * 4
