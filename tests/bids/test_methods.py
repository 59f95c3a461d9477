"""The methods text, held against what the sidecars of a derivative say."""

import html.parser
import itertools
import re

import attrs
import pytest

from l2s_pydra import __version__
from l2s_pydra.bids.derivatives import write_json, write_text
from l2s_pydra.bids.methods import methods, recorded_versions, write_methods
from l2s_pydra.bids.provenance import sidecar
from l2s_pydra.bids.references import REFERENCES
from l2s_pydra.bids.training_text import training_text
from l2s_pydra.bids.uses import find_uses, model_facts, models_of
from l2s_pydra.config import MODES, LearnConfig

ONE, TWO = "1" * 64, "2" * 64
VERSIONS = {"nibabel": "5.4.2", "pybids": "0.22.0", "pydra": "1.0a12", "torch": "2.13.0+cpu"}


def model(name="m1", sha256=ONE, mode="learn2synth", **facts):
    learn = LearnConfig().evolve(training__mode=mode, training__steps=1234, spacing_mm=1.5)
    return {"name": name, "version": "1", "sha256": sha256, "learn": learn.to_dict(), **facts}


def write_use(root, name, *, used, suffix="T1w", source=None, **details):
    source = source or f"{name.replace('_seg-tissue', '')}_{suffix}.nii.gz"
    entities = {"subject": "01", "suffix": suffix}
    values = sidecar("dseg", source=source, entities=entities, model=used, details=details)
    write_json(root / f"{name}_desc-{suffix}_dseg.json", values)


@pytest.fixture
def derivative(tmp_path):
    """Four images of three participants, segmented in two ways by two models."""
    plain = {"FlipAveraging": True, "TestTimeDraws": 1}
    careful = {
        "FlipAveraging": False,
        "TestTimeDraws": 5,
        "LargestPieceOnly": {"Structures": ["Left-Putamen", "Right-Putamen"], "Removed": []},
    }
    first, second = model("m1", ONE), model("m2", TWO, mode="supervised")
    write_use(tmp_path, "sub-01/ses-a/anat/sub-01_ses-a_seg-tissue", used=first, **plain)
    write_use(tmp_path, "sub-01/ses-b/anat/sub-01_ses-b_seg-tissue", used=first, **plain)
    write_use(tmp_path, "sub-02/anat/sub-02_seg-tissue", used=first, suffix="FLAIR", **plain)
    write_use(tmp_path, "sub-03/anat/sub-03_seg-tissue", used=second, **careful)
    write_json(tmp_path / "models/model-m1/config.json", first)
    rows = ["sub-08\tlearn\ta", "sub-08\tlearn\tb", "sub-09\tvalidate\tc"]
    table = "\n".join(["participant_id\trole\timage", *rows]) + "\n"
    write_text(tmp_path / "models/model-m1/splits.tsv", table)
    return tmp_path


def test_uses_are_counted_from_the_sidecars(derivative):
    first, second = find_uses(derivative)
    assert (first.model, first.contrasts, first.participants) == ("m1", {"FLAIR": 1, "T1w": 2}, 2)
    assert (second.model, second.contrasts, second.participants) == ("m2", {"T1w": 1}, 1)
    assert (second.flip, second.draws, len(second.largest)) == (False, 5, 2)
    known = models_of(derivative, [first, second])
    assert known[0]["roles"]["learn"] == {"participants": 1, "images": 2}
    assert known[1] == {"name": "m2", "sha256": TWO}


def test_volumes_are_spoken_of_where_there_are_tables_of_them(derivative):
    assert "volume-mm3" not in methods(find_uses(derivative), [], versions=VERSIONS).markdown
    table = derivative / "sub-03/anat/sub-03_seg-tissue_desc-T1w_morph.tsv"
    write_text(table, "index\tname\tvolume-mm3\n")
    assert [use.volumes for use in find_uses(derivative)] == [False, True]
    assert "`volume-mm3`" in methods(find_uses(derivative), [], versions=VERSIONS).markdown


def test_outputs_on_the_grid_of_the_network_are_no_second_image(derivative):
    before = find_uses(derivative)
    values = sidecar(
        "dseg",
        source="sub-02/anat/sub-02_FLAIR.nii.gz",
        entities={"subject": "02", "suffix": "FLAIR"},
        model=model(),
        resolution="1.5 mm, the grid that the model works on",
        details={"FlipAveraging": True, "TestTimeDraws": 1},
    )
    write_json(derivative / "sub-02/anat/sub-02_seg-tissue_res-1p5mm_desc-FLAIR_dseg.json", values)
    after = find_uses(derivative)
    assert [use.contrasts for use in after] == [use.contrasts for use in before]


def test_broken_and_foreign_sidecars_count_as_nothing(derivative):
    before = find_uses(derivative)
    anat = derivative / "sub-02/anat"
    write_text(anat / "sub-02_seg-a_desc-T1w_dseg.json", "{")
    write_text(anat / "sub-02_seg-b_desc-T1w_dseg.json", "[" * 100_000)
    write_json(anat / "sub-02_seg-c_desc-T1w_dseg.json", {"Sources": "bids:raw:x"})
    write_json(anat / "sub-02_seg-d_desc-T1w_dseg.json", {"ModelSHA256": ONE, "Sources": [1]})
    assert find_uses(derivative) == before


def test_a_name_in_a_sidecar_leads_out_of_no_folder(derivative):
    write_json(derivative / "elsewhere/config.json", {"secret": True})
    use = find_uses(derivative)[0]
    for name in ("x/../../../elsewhere", "../../elsewhere"):
        (known,) = models_of(derivative, [attrs.evolve(use, model=name)])
        assert "secret" not in known


def test_the_text_tells_every_way(derivative):
    uses = find_uses(derivative)
    text = methods(uses, models_of(derivative, uses), versions=VERSIONS).markdown
    assert "in 2 ways" in text
    assert "1 FLAIR and 2 T1w images of 2 participants were segmented" in text
    assert "1 T1w image of 1 participant was segmented" in text
    assert ONE in text
    assert TWO in text
    assert "mirror image" in text
    assert "4 copies with small random changes" in text
    assert "Of Left-Putamen and Right-Putamen, only the largest connected piece" in text
    assert "voxels of 1.5 mm" in text
    assert "1,234 steps" in text
    assert "learned from 2 scans of 1 participant" in text
    assert text.count("How this model was trained is not recorded") == 1  # m2 is elsewhere
    for version in VERSIONS.values():
        assert version in text


def test_one_way_without_averaging(tmp_path):
    details = {"FlipAveraging": False, "TestTimeDraws": 1}
    write_use(tmp_path, "sub-01/anat/sub-01_seg-tissue", used=model(), **details)
    text = methods(find_uses(tmp_path), [model()], versions={}).markdown
    assert "ways" not in text
    assert "averaged with" not in text
    assert "largest connected" not in text
    assert "NiBabel" not in text  # of which nothing is known


@pytest.mark.parametrize("mode", MODES)
def test_training_and_references_fit_the_mode(mode):
    made = methods([], [model(mode=mode, theta={"noise": 0.01234, "n/a": None})], versions={})
    text = made.markdown
    assert ("Learn2Synth" in text) == mode.startswith("learn2synth")
    assert ("SynthSeg" in text) == (mode != "supervised")
    assert ("| noise | 0.01234 |" in text) == mode.startswith("learn2synth")
    assert text.count("\n- ") == len(made.cited) == made.bibtex.count("\n@") + 1


def test_of_a_model_that_nobody_knows_nothing_is_told():
    assert training_text({"name": "x", "sha256": ONE}) == []
    assert training_text({"name": "x", "learn": {"training": {"mode": "magic"}}}) == []


class Page(html.parser.HTMLParser):
    """Tags of a page, which must be closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_nothing_from_outside_becomes_markup(tmp_path):
    evil = '<script>alert(1)</script>" onmouseover="x'
    used = model(name=evil, theta={evil: 1.0}, estimator=evil)
    details = {"FlipAveraging": True, "LargestPieceOnly": {"Structures": [evil]}}
    write_use(tmp_path, "sub-01/anat/sub-01_seg-tissue", used=used, **details)
    made = methods(find_uses(tmp_path), [used], versions={"torch": evil})
    page = Page()
    page.feed(made.html)
    page.close()
    assert page.open == []
    allowed = {"html", "meta", "title", "h1", "p", "code", "table", "tr", "th", "td", "ul", "li"}
    assert {tag for tag, _ in page.seen} <= allowed
    assert all(not attrs for tag, attrs in page.seen if tag not in ("html", "meta"))
    assert "<script" not in made.markdown
    assert "onmouseover" in page.text  # it is told, as text


def parse_bibtex(text):
    """Entries of a BibTeX file by a small parser of its own, which counts braces."""
    entries, rest = {}, text.strip()
    while rest:
        kind, key = re.match(r"@([a-z]+)\{([a-z0-9]+),", rest).groups()
        depths = list(itertools.accumulate({"{": 1, "}": -1}.get(char, 0) for char in rest))
        end = depths.index(0, 1 + rest.index("{"))
        body = rest[rest.index(",") + 1 : end]
        fields = dict(re.findall(r"^  ([a-z]+) = \{(.*)\},$", body, flags=re.M))
        assert body.strip().count("\n") + 1 == len(fields)
        assert key not in entries
        entries[key] = (kind, fields)
        rest = rest[end + 1 :].strip()
    return entries


def test_bibtex_parses():
    entries = parse_bibtex("\n".join(work.bibtex for work in REFERENCES.values()))
    assert set(entries) == set(REFERENCES)
    venues = {"article": "journal", "inproceedings": "booktitle", "misc": "publisher"}
    for kind, fields in entries.values():
        assert {"author", "title", "year", "doi", venues[kind]} <= set(fields)
        assert re.fullmatch(r"10\.\d{4,}/\S+", fields["doi"])
        assert re.fullmatch(r"\d{4}", fields["year"])
        assert all(", " in name or name == "others" for name in fields["author"].split(" and "))


def test_written_for_what_the_derivative_holds(derivative):
    record = 'run.id = "x"\n[software]\nl2s_pydra = "9"\ntorch = "2.9.9"\n'
    write_text(derivative / "sub-01/log/20260101-000000_a/l2s_pydra.toml", record)
    newer = record.replace("2.9.9", "2.10.0")
    write_text(derivative / "logs/20260301-000000_a/l2s_pydra.toml", newer)
    assert recorded_versions(derivative)["torch"] == "2.10.0"
    paths = write_methods(derivative, derivative)
    assert [path.relative_to(derivative).as_posix() for path in paths] == [
        "logs/CITATION.md",
        "logs/CITATION.html",
        "logs/CITATION.bib",
    ]
    text = paths[0].read_text()
    assert "PyTorch 2.10.0" in text
    assert f"written by l2s_pydra {__version__}" in text
    assert set(parse_bibtex(paths[2].read_text())) <= set(REFERENCES)


def test_facts_of_a_folder_without_splits(tmp_path):
    write_json(tmp_path / "config.json", {"name": "x"})
    assert model_facts(tmp_path, ONE) == {"name": "x", "sha256": ONE, "roles": {}}
