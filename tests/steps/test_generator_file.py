"""What generator.json says is what the model was learned with."""

import json
import re
from pathlib import Path

import attrs
import pytest

from l2s_pydra.augmentation import available, build_augmentation
from l2s_pydra.config import SynthesisConfig
from l2s_pydra.steps.generator_file import _LEARNED, _RANGES
from l2s_pydra.steps.learn import learn

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture
def learned(inputs, config):
    """Learn a model; return its folder and what its generator.json holds."""

    def learned(**changes):
        folder = learn(**inputs(config=config(**changes)))
        return folder, json.loads((folder / "generator.json").read_text())

    return learned


def entries(title):
    """First cells of the table below a sentence of the page."""
    table = PAGE.read_text(encoding="utf-8").split(title)[1].split("\n\n")[1]
    cells = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_setting_of_the_generator_is_described():
    fields = {field.name for field in attrs.fields(SynthesisConfig)}
    assert set(_RANGES) == fields - {"priors"}


@pytest.mark.parametrize("name", available())
def test_every_learned_value_has_a_unit(name):
    augmentation = build_augmentation(name, ndim=2, group_names=("outside", "a"), options={})
    assert {value.partition("/")[0] for value in augmentation.describe()} <= set(_LEARNED)


def test_the_page_explains_every_entry(learned):
    _, record = learned()
    assert entries("## Entries") == set(record)
    assert entries("Each group has:") == set(record["groups"][1])


@pytest.mark.parametrize("mode", ["learn2synth", "learn2synth-mixed"])
def test_learned_values_are_those_of_theta(learned, mode):
    folder, record = learned(training__wide_share=0.6, training__mode=mode)
    theta = json.loads((folder / "theta.json").read_text())["average"]
    found = {name: entry["value"] for name, entry in record["learned"].items()}
    for group in record["groups"]:
        found |= {f"{name}/{group['name']}": v for name, v in group["learned"].items()}
    assert found == pytest.approx(theta, rel=1e-5)
    assert record["learned_share"] == pytest.approx(0.4)
    assert record["groups"][0]["learned"] == {}
    for entry in (*record["learned"].values(), *record["learned_units"].values()):
        assert entry["unit"]
        assert entry["meaning"]


def test_labels_are_in_their_groups(learned):
    _, record = learned()
    groups = {group["name"]: group for group in record["groups"]}
    putamen = groups["Putamen"]["label_maps"]
    assert [(m["index"], m["side"], m["opposite"]) for m in putamen] == [
        (12, "left", 51),
        (51, "right", 12),
    ]
    of_the_segmentation = {m["index"]: m["name"] for m in groups["Putamen"]["segmentation"]}
    assert {of_the_segmentation[m["segmented_as"]] for m in putamen} == {
        "Left-Putamen",
        "Right-Putamen",
    }
    assert [m["index"] for m in groups["outside"]["label_maps"]] == [0]
    assert [m["segmented_as"] for m in groups["Skull"]["label_maps"]] == [0]
    everything = [m["index"] for group in record["groups"] for m in group["label_maps"]]
    assert len(everything) == len(set(everything))


def test_ranges_are_distributions_with_units(learned):
    prior = {"White-Matter": (0.9, 0.02, 0.05, 0.01)}
    _, record = learned(
        synthesis__rotation_deg=7.0, synthesis__scaling=0.1, synthesis__priors=prior
    )
    ranges = record["ranges"]
    assert (ranges["rotation_deg"]["low"], ranges["rotation_deg"]["high"]) == (-7, 7)
    assert ranges["rotation_deg"]["unit"] == "degrees"
    assert (ranges["scaling"]["low"], ranges["scaling"]["high"]) == pytest.approx((0.9, 1.1))
    assert ranges["gamma_std"]["distribution"] == "log-normal"
    assert ranges["spacing_slices_mm"]["low"] == record["spacing_mm"]
    assert all(entry["meaning"] and entry["unit"] for entry in ranges.values())
    priors = {group["name"]: group["prior"] for group in record["groups"] if group["prior"]}
    assert priors == {"White-Matter": [0.9, 0.02, 0.05, 0.01]}


@pytest.mark.parametrize("mode", ["synthseg", "supervised"])
def test_without_a_learned_appearance_there_are_ranges_only(learned, mode):
    _, record = learned(training__mode=mode)
    assert (record["augmentation"], record["learned_share"], record["learned"]) == (None, 0.0, {})
    assert all(group["learned"] == {} for group in record["groups"])


def test_an_augmentation_of_images_has_no_groups(learned):
    _, record = learned(augmentation={"name": "noise_range"})
    assert set(record["learned"]) == {"sigma_min", "sigma_max"}
    assert record["learned_share"] == 1.0
    assert record["learned_units"] == {}
