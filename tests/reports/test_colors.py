import numpy as np
import pytest

from l2s_pydra.errors import LabelError
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.reports.colors import hex_color, label_colors, palette


def test_palette_extends_itself():
    assert palette(20)[:7] == palette(7)
    assert palette(20) == palette.__wrapped__(20)


def test_palette_colors_are_apart():
    colors = np.array(palette(20))
    gaps = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert gaps[~np.eye(20, dtype=bool)].min() > 0.15
    assert np.all((colors >= 0) & (colors <= 1))


def test_table_color_comes_first_and_sides_are_shades():
    scheme = LabelScheme(
        [
            Label(index=1, name="Left-Thalamus"),
            Label(index=2, name="Right-Thalamus"),
            Label(index=3, name="stem", color="#00ff00"),
        ]
    )
    background, left, right, stem = label_colors(scheme)
    assert background == (0, 0, 0)
    assert hex_color(stem) == "#00ff00"
    assert hex_color(left) == "#e69f00"
    np.testing.assert_allclose(right, 0.75 * np.array(left))


def test_bad_table_color_is_named():
    scheme = LabelScheme([Label(index=4, name="stem", color="green")])
    with pytest.raises(LabelError, match=r"label 4 \(stem\): color 'green'.*#rrggbb"):
        label_colors(scheme)
