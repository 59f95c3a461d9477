"""The example of docs/hypergradient.md learns what it says."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "hypergradient.md"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("start", [0.5, 3.0])
def test_the_blur_of_the_real_images_is_found(start):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    given = "log_width = torch.tensor(0.5).log()"
    assert code.count(given) == 1
    names = {}
    with torch.random.fork_rng(devices=[]):
        exec(compile(code.replace("(0.5)", f"({start})"), str(PAGE), "exec"), names)
    found = float(names["log_width"].detach().exp())
    assert found == pytest.approx(names["TRUE_WIDTH"], rel=0.1)
    # The segmenter has learned the real images without ever being trained on them.
    with torch.no_grad():
        right = names["segmenter"](names["real"]).argmax(1) == names["real_labels"]
    assert float(right.float().mean()) > 0.9
