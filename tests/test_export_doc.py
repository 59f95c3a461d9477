"""The example of docs/export.md makes what SynthSeg takes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "export.md"


def label(index, *, side="midline", opposite=None, segmented_as=0):
    return {
        "index": index,
        "name": f"label{index}",
        "side": side,
        "opposite": index if opposite is None else opposite,
        "segmented_as": segmented_as,
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder with the description of a generator of three classes."""
    learned = [{"mean": 0.4, "variation": 0.1, "spread": 0.05}]
    learned += [{"mean": 0.8, "variation": 0.02, "spread": 0.1}, {"mean": 0.3}]
    groups = [
        {"label_maps": [label(0)], "learned": {}},
        {
            "label_maps": [
                label(50, side="right", opposite=10, segmented_as=7),
                label(10, side="left", opposite=50, segmented_as=3),
            ],
            "learned": learned[0],
        },
        {
            # The label of one side alone is exchanged with none.
            "label_maps": [label(24), label(11, side="left", segmented_as=5)],
            "learned": learned[1],
        },
        {"label_maps": [], "learned": learned[2]},
    ]
    (tmp_path / "generator.json").write_text(json.dumps({"groups": groups}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arrays_have_the_shapes_and_the_scale_that_are_wanted(folder, capsys):
    code, *_ = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    exec(compile(code, str(PAGE), "exec"), {})
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    assert arrays["generation_labels"].tolist() == [0, 11, 24, 10, 50]
    assert arrays["output_labels"].tolist() == [0, 5, 0, 3, 7]
    assert arrays["generation_classes"].tolist() == [0, 2, 2, 1, 1]
    np.testing.assert_allclose(arrays["prior_means"], [[0, 102, 204], [0, 25.5, 5.1]])
    np.testing.assert_allclose(arrays["prior_stds"], [[0, 12.75, 25.5], [0, 0, 0]])
    assert capsys.readouterr().out == "n_neutral_labels=3, 5 labels in 3 classes\n"
