"""Priors as intervals."""

import matplotlib.image
import numpy as np
import pytest

from l2s_pydra.errors import DatasetError
from l2s_pydra.reports import prior_intervals

HEADER = "group\tn_images\tmean\tmean_std\tstd\n"


@pytest.fixture
def draw(tmp_path):
    def draw(*rows):
        table = tmp_path / "priors.tsv"
        table.write_text(HEADER + "".join("\t".join(row) + "\n" for row in rows))
        return matplotlib.image.imread(prior_intervals(table, tmp_path / "p.png"))[..., :3]

    return draw


def blue(picture):
    """Columns with the dark bar's colour."""
    return np.flatnonzero(
        (np.abs(picture - [0, 0x72 / 255, 0xB2 / 255]) < 0.02).all(-1)[60:].any(0)
    )


def test_a_wider_interval_is_drawn_wider(draw):
    narrow, wide = (
        blue(draw(("a", "3", "0.5", std, "0.2"), ("b", "3", "0.2", "0.0", "0.2")))
        for std in ("0.05", "0.1")
    )
    assert np.ptp(wide) == pytest.approx(2 * np.ptp(narrow), rel=0.1)


def test_one_row_a_group(draw):
    row = ("some_group", "2", "0.5", "0.05", "0.1")
    heights = [draw(*[row] * n).shape[0] for n in (1, 4)]
    assert heights[1] - heights[0] == 3 * 30


def test_an_empty_table_is_named(draw):
    with pytest.raises(DatasetError, match=r"priors\.tsv.*no row"):
        draw()
