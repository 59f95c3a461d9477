"""Words from outside stay words: they add no element, no attribute and no address to a page."""

from collections import Counter
from html.parser import HTMLParser

import pytest

from l2s_pydra.reports.charts import strip
from l2s_pydra.reports.pages import group_page, model_page, participant_page, preview_page
from l2s_pydra.reports.statistics import ImageValue

PAYLOADS = (
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onload='alert(1)",
    "</style><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% include 'style.css' %}",
    "javascript:alert(1)//",
)
FREE = {"color", "entities", "theta"}
"""Keys whose values are no text: colours are tested below, the others name things."""


class Skeleton(HTMLParser):
    """Elements and attributes of a page, and where it leads."""

    def __init__(self, path):
        super().__init__()
        self.found, self.addresses, self.styles = Counter(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found[tag, tuple(sorted(name for name, _ in attrs))] += 1
        values = dict(attrs)
        self.addresses += [values[key] for key in ("href", "src") if key in values]
        self.styles += [values["style"]] if "style" in values else []


def poison(value, payload, key=""):
    """Append the payload to every text in a structure, keys that are words included."""
    if isinstance(value, str):
        return value + payload
    if isinstance(value, dict):
        return {k: v if k in FREE else poison(v, payload, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(poison(item, payload, key) for item in value)
    return value


RUN = {
    "run": {"id": "r", "system": "Linux", "seed": 0},
    "software": {"torch": "2.4"},
    "command": {"line": ["l2s-pydra", "in", "out"]},
    "settings": {"device": "cpu", "config": {"a": ["b"]}},
}
IMAGE = {
    "image": "sub-01_T1w",
    "source": "sub-01/anat/sub-01_T1w.nii.gz",
    "entities": {"subject": "01", "suffix": "T1w"},
    "segmentation": "x",
    "dseg": "sub-01/a.nii.gz",
    "figure": "sub-01/a.png",
    "files": [{"href": "sub-01/a.tsv", "text": "a.tsv"}],
    "volumes": [{"index": 1, "name": "stem", "volume_mm3": 3e5, "color": "#e69f00"}],
    "warnings": ["cut"],
    "header_warnings": ["odd"],
    "flags": [{"kind": "score", "text": "low", "structures": ["stem"]}],
    "model": {"name": "m", "sha256": "ab", "version": "1"},
    "shape": [1, 2, 3],
    "spacing_mm": [1.0, 1.0, 1.0],
    "seconds": 1.0,
}
FAILURES = [{"file": "x.nii", "reason": "bad", "log": "sub-01/log/a.txt", "participant": "sub-01"}]
LINKS = [{"href": "group.html", "text": "Group"}]
FIGURE = {"href": "a.png", "alt": "curves", "caption": "Curves."}


def participant(path, payload=""):
    bad = poison((IMAGE, RUN, FAILURES, LINKS), payload)
    image, run, failures, links = bad
    return participant_page(
        "sub-01" + payload, [image], path, run=run, failures=failures, links=links
    )


def group(path, payload=""):
    run, failures, links = poison((RUN, FAILURES, LINKS), payload)
    values = [
        ImageValue(f"sub-{i}_T1w{payload}", f"stem{payload}", 10.0 * (9 if i == 3 else 1))
        for i in range(7)
    ]
    return group_page(
        values,
        path,
        dice=[ImageValue(f"sub-1_T1w{payload}", f"stem{payload}", 0.5)],
        roles={f"sub-1_T1w{payload}": "test"},
        failures=failures,
        models=[poison(IMAGE["model"], payload)],
        run=run,
        links=links,
    )


def model(path, payload=""):
    values = {
        "name": "m",
        "sha256": "ab",
        "version": "1",
        "best_dice": 0.75,
        "steps": 100,
        "seconds": 65.0,
        "settings": [{"title": "Training", "items": [{"name": "Loss", "value": "dice"}]}],
        "config": {"learn": {"spacing_mm": 3}},
        "software": {"torch": "2.4"},
        "labels": [{"index": 1, "name": "stem", "color": "#e69f00", "dice": 0.5}],
        "roles": [{"title": "Learned from", "explanation": "They.", "names": ["sub-01"]}],
    }
    name = payload.replace("/", "")  # which parts quantity and group
    theta = {f"odd/stem{name}": 0.5, f"even{name}": 0.3}
    bad = poison(values, payload) | {
        "mode": "learn2synth",
        "theta": {"average": theta, "start": theta},
    }
    figure, files = poison((FIGURE, LINKS), payload)
    return model_page(
        bad, path, curves=figure, theta_figures=[figure], samples=[figure], files=files
    )


def preview(path, payload=""):
    figure = poison(FIGURE, payload)
    picture = {**FIGURE, "values": {f"gamma{payload}": f"x{payload}", "b": 0.5}}
    sheet = {"id": "s", "title": "Sheet", "explanation": "Text", "pictures": [picture]}
    sheet = {**poison(sheet, payload), "id": "s"}
    return preview_page(
        path,
        glance=figure,
        priors=figure,
        sheets=[sheet],
        theta={f"even{payload.replace('/', '')}": 0.1},
        settings=poison([{"name": "a", "value": "b", "meaning": "c"}], payload),
        facts={f"fact{payload}": f"x{payload}"},
    )


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("make", [participant, group, model, preview])
def test_no_word_becomes_markup(tmp_path, make, payload):
    clean, bad = (Skeleton(make(tmp_path / f"{i}.html", p)) for i, p in enumerate(("", payload)))
    assert bad.found == clean.found
    assert bad.styles == clean.styles
    assert not [a for a in bad.addresses if a.lower().strip().startswith(("javascript:", "data:"))]
    assert "49" not in "".join(bad.addresses)  # no template in a template


@pytest.mark.parametrize("color", ['#fff" onclick="x', "red;background:url(x)", "url(//x)"])
def test_a_color_is_a_color_or_none(tmp_path, color):
    volumes = [{**IMAGE["volumes"][0], "color": color}]
    page = participant_page("sub-01", [{**IMAGE, "volumes": volumes}], tmp_path / "a.html", run={})
    text = page.read_text(encoding="utf-8")
    assert "url(" not in text
    assert "onclick" not in text


def test_names_in_drawings_are_escaped():
    points = [("<script>x</script>", 9.0), *((f"b{i}", 2.0) for i in range(5))]
    drawing = strip(points, limits=(0.0, 10.0))
    assert "&lt;script&gt;" in drawing
    assert "<script>" not in drawing
