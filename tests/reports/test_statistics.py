import math

import numpy as np
import pytest

from l2s_pydra.reports.charts import box, strip
from l2s_pydra.reports.statistics import ImageValue, distributions, matrix, unusual_values


def values_of(numbers, label="thalamus"):
    return [ImageValue(f"sub-{i:02d}_T1w", label, v) for i, v in enumerate(numbers)]


def test_a_far_value_is_found_with_its_robust_distance():
    numbers = [9.0, 10.0, 10.0, 11.0, 12.0, 30.0]
    (found,) = unusual_values(values_of(numbers))
    spread = 1.4826 * np.median(np.abs(np.array(numbers) - 10.5))
    assert found.participant == "sub-05"
    assert found.median == 10.5
    assert found.deviations == pytest.approx((30 - 10.5) / spread)


@pytest.mark.parametrize("numbers", [[1, 1, 1, 100], [1, 1, 1, 1, 1, 100], [], [math.nan] * 6])
def test_few_or_equal_values_are_not_judged(numbers):
    assert unusual_values(values_of(numbers)) == []


def test_distribution_leaves_out_what_is_not_defined():
    rows = distributions(values_of([1.0, 2.0, math.nan]) + values_of([math.nan], "stem"), scale=2)
    assert [row["label"] for row in rows] == ["thalamus"]
    assert rows[0]["n"] == 2
    assert (rows[0]["mean"], rows[0]["sd"]) == ("3.00", "1.41")
    assert (rows[0]["low"], rows[0]["high"]) == ("2.00", "4.00")


def test_matrix_has_a_row_an_image_and_gaps_where_nothing_is_known():
    values = [*values_of([0.5, 0.7]), *values_of([0.9], "stem")]
    table = matrix(values, with_mean=True, far={("sub-00_T1w", "stem"): "far"})
    assert table["labels"] == ["mean", "thalamus", "stem"]
    first, second = ([cell["text"] for cell in row["cells"]] for row in table["rows"])
    assert first == ["0.70", "0.50", "0.90"]
    assert second == ["0.70", "0.70", "n/a"]
    assert table["rows"][0]["cells"][2]["far"] == "far"
    assert table["rows"][1]["cells"][2]["value"] == ""


def test_strip_places_values_on_the_line():
    svg = strip([("a", 0.0), ("b", 5.0), ("c <", 10.0)])
    assert [f'cx="{x}"' in svg for x in (6.0, 200.0, 394.0)] == [True] * 3
    assert "c &lt;: 10" in svg
    assert "3 values, median 5" in svg
    assert strip([]) == ""


def test_strip_of_many_values_draws_those_outside_the_box():
    points = [(f"i{n}", float(n)) for n in range(400)]
    assert strip(points).count("<circle") == 200
    assert strip([("a", 1.0)] * 3).count("<circle") == 3


def test_box_has_its_range_quartiles_and_the_mark_at_their_places():
    svg = box([2.0, 4.0, 5.0, 7.0, 10.0], n=12, mark=0.0)
    assert 'x1="83.6" y1="15" x2="394.0" y2="15"' in svg  # from 2 to 10, of 0 to 10
    assert '<rect x="161.2"' in svg
    assert 'points="8,7.0 16,15.0' in svg  # the diamond stays whole at the edge
    assert "12 values from 2 to 10, median 5, middle half from 4 to 7; this one 0" in svg
