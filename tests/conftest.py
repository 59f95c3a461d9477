"""What tests of several packages use."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from l2s_pydra import bids_examples
from l2s_pydra.bids.dataset import build_training_set
from l2s_pydra.bids_examples.make_varied import make_varied
from l2s_pydra.config import preset


@pytest.fixture
def one_thread():
    """Compute with one thread, so that results do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def own_augmentation(tmp_path_factory):
    """Folder with the whole augmentation that docs/extending.md shows, ``fog.py``."""
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    code = page.split("<!-- file: fog.py -->\n```python\n")[1].split("\n```\n")[0]
    folder = tmp_path_factory.mktemp("own")
    (folder / "fog.py").write_text(code + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_training():
    """Inputs of ``Learn`` for the phantom data set, with settings that learn next to nothing."""
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


@pytest.fixture(scope="session")
def varied(tmp_path_factory):
    """Root of a generated data set, by name; written once and not to be changed."""
    folder, made = tmp_path_factory.mktemp("varied"), {}

    def varied(name):
        if name not in made:
            made[name] = make_varied(folder / name, name)
        return made[name]

    return varied


@pytest.fixture(scope="session")
def bids_validator():
    """Run the BIDS validator on a data set; what the finished process said."""
    # The wheel bids-validator-deno belongs to the test extra and puts the program on the path, or
    # beside the interpreter of an environment that is not activated.
    program = shutil.which("bids-validator-deno") or shutil.which(
        "bids-validator-deno", path=str(Path(sys.executable).parent)
    )
    assert program, "install the test extra: pip install 'l2s_pydra[test]'"

    def bids_validator(root, *options):
        command = [program, *options, str(root)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return bids_validator


ACCEPTED_WARNINGS = {
    "TOO_FEW_AUTHORS": "who ran the software is not known to it, and is for them to say",
    "SUBJECT_FOLDERS": "a model, a comparison or a preview alone is no data of participants",
}
"""Warnings of the validator that outputs may have, and why."""


@pytest.fixture(scope="session")
def derivative_is_valid(bids_validator):
    """Check that the validator finds no error in an output folder and no warning but those listed."""

    def derivative_is_valid(root):
        done = bids_validator(root, "--format", "json")
        issues = json.loads(done.stdout)["issues"]["issues"]
        accepted = set(ACCEPTED_WARNINGS)
        if any(root.glob("sub-*/**/*.nii.gz")):
            accepted.remove("SUBJECT_FOLDERS")
        wrong = [i for i in issues if i["severity"] == "error" or i["code"] not in accepted]
        assert wrong == []
        assert done.returncode == 0

    return derivative_is_valid
