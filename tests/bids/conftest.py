"""Small BIDS trees; the files are empty, for only their names are looked at."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

MakeDataset = Callable[..., Path]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Return a function that writes a data set with the given files and returns its root."""

    def make(folder: str, files: Iterable[str], *, kind: str = "raw") -> Path:
        root = tmp_path / folder
        root.mkdir(parents=True)
        description = {"Name": "small", "BIDSVersion": "1.11.1", "DatasetType": kind}
        (root / "dataset_description.json").write_text(json.dumps(description))
        for name in files:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}" if path.suffix == ".json" else "")
        return root

    return make
