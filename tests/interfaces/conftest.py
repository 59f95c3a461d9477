"""What one tiny training needs, and its model."""

import pytest

from l2s_pydra import bids_examples
from l2s_pydra.bids.dataset import build_training_set
from l2s_pydra.config import preset


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("NIPYPE_NO_ET", "1")


@pytest.fixture(scope="session")
def inputs():
    """Inputs of the interface ``Learn`` for the phantom data set."""
    data = bids_examples.path("phantom")
    derivatives = data / "derivatives"
    found = build_training_set(data, derivatives / "reference", derivatives / "labelmaps")
    pairs = (*found.learn, *found.validate)
    config = preset("quick").evolve(
        spacing_mm=4.0, segmenter__width=2, training__steps=2, training__validate_every=1
    )
    return {
        "images": [image.path for image, _ in pairs],
        "labels": [labels for _, labels in pairs],
        "participants": [image.participant for image, _ in pairs],
        "roles": ["learn"] * len(found.learn) + ["validate"] * len(found.validate),
        "label_maps": [record.path for record in found.label_maps],
        "config": config.to_dict(),
        "real_table": found.real_table,
        "maps_table": found.maps_table,
        "segmentation": "tissue",
    }
