"""The preview shows what a training would see, and trains nothing."""

import re
from html.parser import HTMLParser

import pytest

from l2s_pydra.config import MODES
from l2s_pydra.errors import ConfigError, ImageError
from l2s_pydra.steps import learn as learning
from l2s_pydra.steps.preview import _MADE, preview


class Page(HTMLParser):
    """Pictures, links and sections of a page, and the values under each picture."""

    def __init__(self, path):
        super().__init__()
        self.sources, self.links, self.ids, self.alts = [], [], [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.sources.append(values["src"])
            self.alts.append(values["alt"])
        if "href" in values:
            self.links.append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])

    def drawn(self, kind, number):
        """Values under a picture."""
        figure = self.text.split(f'src="figures/{kind}-{number:02d}.png"')[1].split("</figure>")[0]
        return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", figure))


@pytest.fixture
def given(inputs, tmp_path):
    """Arguments of the step."""

    def given(**changes):
        values = inputs(out_dir=tmp_path / "out" / "preview", count=2, **changes)
        return {k: v for k, v in values.items() if k not in ("segmentation", "progress")}

    return given


def kinds(page):
    return {name for name in page.ids if name in ("learned", "wide", "augmented", "real")}


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_page_and_its_files(given, config, ndim):
    arguments = given(config=config(ndim))
    path = preview(**arguments)
    folder = path.parent
    assert path == arguments["out_dir"] / "index.html"
    assert [p.name for p in folder.parent.iterdir()] == ["preview"]
    assert {p.name for p in folder.iterdir()} == {
        "index.html",
        "figures",
        "priors.json",
        "priors.tsv",
        "priors_columns.json",
    }
    page = Page(path)
    assert kinds(page) == {"learned", "wide", "real"}
    pictures = [f"figures/{k}-{n:02d}.png" for k in ("learned", "wide", "real") for n in (1, 2)]
    assert set(page.sources) == {*pictures, "figures/glance.png", "figures/priors.png"}
    assert {f"figures/{p.name}" for p in (folder / "figures").iterdir()} == set(page.sources)
    for link in page.links:
        target = link.removeprefix("#")
        assert target in (*page.ids, "main") if link.startswith("#") else (folder / link).is_file()
    assert "http" not in page.text
    assert all(page.alts)
    assert "synthesis.rotation_deg" in page.text


def test_draws_are_those_of_the_first_steps(given, monkeypatch):
    """What the trainer draws for a step is what is written under the picture."""
    arguments = given()
    page = Page(preview(**arguments))
    drawn = []

    class Stop:
        def __init__(self, config, data, **others):
            from l2s_pydra.bilevel.batches import Batches

            batches = Batches(config=config.training, data=data, device="cpu")
            drawn.extend(batches.draws(step)[0] for step in (0, 1))
            raise InterruptedError

    monkeypatch.setattr("l2s_pydra.bilevel.training.Trainer", Stop)
    learn = {k: v for k, v in arguments.items() if k != "count"}
    with pytest.raises(InterruptedError):
        learning.learn(**learn, segmentation="tissue", progress=False)
    for number, draw in enumerate(drawn, 1):
        shown = page.drawn("wide", number)
        expected = draw.summary(spacing_mm=8.0, oversampling=2)
        assert set(shown) == set(expected)
        assert float(shown["rotation (degrees)"]) == pytest.approx(
            expected["rotation (degrees)"], rel=1e-2
        )
        assert shown["label map"] == str(draw.label_map)


def test_the_same_preview_has_the_same_pictures(given):
    first = preview(**given()).parent
    before = {p.name: p.read_bytes() for p in (first / "figures").iterdir()}
    second = preview(**given()).parent
    assert {p.name: p.read_bytes() for p in (second / "figures").iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"training__mode": "synthseg"}, {"wide", "real"}),
        ({"training__mode": "supervised"}, {"augmented", "real"}),
        ({"training__mode": "mixed-randomised"}, {"wide", "augmented", "real"}),
        ({"training__mode": "learn2synth-mixed"}, {"learned", "wide", "augmented", "real"}),
        ({"augmentation": {"name": "noise"}}, {"learned", "real"}),
    ],
)
def test_what_is_shown_depends_on_what_is_trained(given, config, changes, expected):
    page = Page(preview(**given(config=config(**changes))))
    assert kinds(page) == expected
    assert ("Where the augmentation starts" in page.text) == ("learned" in expected)


def test_every_mode_is_known():
    assert set(_MADE) == set(MODES)


def test_fewer_scans_than_asked_for(given):
    page = Page(preview(**given() | {"count": 5}))
    assert sum("/real-" in source for source in page.sources) == 3
    assert sum("/wide-" in source for source in page.sources) == 5


def test_an_earlier_preview_is_replaced_whole_or_not_at_all(given, tmp_path):
    arguments = given()
    old = arguments["out_dir"] / "figures" / "wide-99.png"
    old.parent.mkdir(parents=True)
    old.touch()
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match="broken"):
        preview(**arguments | {"images": [broken, *arguments["images"][1:]]})
    assert old.exists()
    assert [p.name for p in arguments["out_dir"].parent.iterdir()] == ["preview"]
    preview(**arguments)
    assert not old.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 0}, "at least 1"),
        ({"labels": []}, "labels: 0"),
        ({"roles": ["learn", "learn", "learn", "judge"]}, "'judge'"),
        ({"participants": ["sub-01"] * 4}, "sub-01"),
    ],
)
def test_wrong_arguments(given, changes, said):
    with pytest.raises(ConfigError, match=said):
        preview(**given() | changes)
