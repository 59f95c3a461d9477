import fnmatch
from pathlib import PurePosixPath

import pytest
from bidsschematools.schema import load_schema

from l2s_pydra.bids.derivatives import dataset_path, derivative_path
from l2s_pydra.steps.outputs import DATASET_OUTPUTS, IMAGE_OUTPUTS, ImageOutput, bidsignore

FIELDS = {
    **{"participant": "sub-1", "run": "r", "name": "n", "model": "m", "segmentation": "s"},
    **{"group": "g", "kind": "act"},
}


def paths():
    image = {"subject": "1", "suffix": "T1w"}
    for row in IMAGE_OUTPUTS.values():
        yield row, derivative_path(image, row, segmentation="s")
    for row in DATASET_OUTPUTS.values():
        yield row, dataset_path(row, **FIELDS)


def test_every_row_has_its_own_path():
    all_paths = [path for _, path in paths()]
    assert len(set(all_paths)) == len(all_paths)


def test_every_row_says_what_it_is():
    for row, _ in paths():
        assert row.description


def ignored(path: PurePosixPath) -> bool:
    """Whether a line matches the file or a folder it is in, as in a ``.gitignore``."""
    lines = bidsignore().splitlines()
    return any(fnmatch.fnmatch(part, line) for part in path.parts for line in lines)


def test_bidsignore_covers_what_the_rows_say():
    for row, path in paths():
        # logs/ is in the standard with whatever it holds; that *.html matches there does no harm.
        assert path.parts[0] == "logs" or ignored(path) == (row.ignore is not None), path


def test_bidsignore_lines_end_without_a_slash():
    assert not any(line.endswith("/") for line in bidsignore().splitlines())


def test_suffixes_that_are_not_ignored_are_in_the_standard():
    suffixes = {suffix.value for suffix in load_schema().objects.suffixes.values()}
    for row in IMAGE_OUTPUTS.values():
        assert row.ignore or row.suffix in suffixes


@pytest.mark.parametrize("change", [{"folder": "func"}, {"extension": "nii"}])
def test_rows_are_checked(change):
    row = {"key": "x", "suffix": "x", "extension": ".nii", "description": "x", **change}
    with pytest.raises(ValueError, match=r"folder|extension"):
        ImageOutput(**row)
