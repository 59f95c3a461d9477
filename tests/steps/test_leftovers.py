"""After another model has segmented an image, nothing of the earlier one stays under its name."""

import json
import shutil

import pytest

from l2s_pydra.bids.derivatives import derivative_path
from l2s_pydra.steps.leftovers import remove_leftovers
from l2s_pydra.steps.outputs import IMAGE_OUTPUTS, on_network_grid

ENTITIES = {"subject": "01", "suffix": "T1w"}
SOURCE = "sub-01/anat/sub-01_T1w.nii.gz"


@pytest.fixture
def publish_by(tmp_path):
    """Publish outputs of a model, and take away what others left."""

    def publish_by(
        model, *keys, network=(), source=SOURCE, segmentation="x", entities=ENTITIES, only=None
    ):
        tree = tmp_path / f"tree-{model}-{segmentation}-{len(source)}"
        rows = [IMAGE_OUTPUTS[key] for key in keys]
        rows += [on_network_grid(IMAGE_OUTPUTS[key], 4.0) for key in network]
        for row in rows:
            path = tree / derivative_path(entities, row, segmentation=segmentation)
            path.parent.mkdir(parents=True, exist_ok=True)
            said = {"Sources": [f"bids:raw:{source}"], "ModelSHA256": model}
            if row.sidecar == "morph":
                said = {"Sources": ["bids::the label map"]}
            path.write_text(json.dumps(said) if row.sidecar else model)
        chosen = only(tree) if only else None
        for path in tree.rglob("*.*"):
            name = path.relative_to(tree).as_posix()
            if chosen is None or name in chosen:
                (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / "out" / name)
        return remove_leftovers(
            tree=tree,
            output_dir=tmp_path / "out",
            entities=entities,
            source=source,
            segmentation=segmentation,
            published=chosen,
        )

    return publish_by


@pytest.fixture
def files(tmp_path):
    return lambda: sorted(path.name for path in (tmp_path / "out").rglob("*.*"))


DSEG = ("dseg", "dseg_json", "dseg_tsv", "mask", "mask_json")
ENTROPY = ("entropy", "entropy_json")


def test_outputs_of_an_earlier_model_are_removed(publish_by, files):
    assert publish_by("A", *DSEG, *ENTROPY, network=(*DSEG, *ENTROPY)) == []
    assert len(files()) == 14
    removed = publish_by("B", *DSEG)
    assert len(removed) == 9
    assert files() == [
        "sub-01_label-brain_desc-T1w_mask.json",
        "sub-01_label-brain_desc-T1w_mask.nii.gz",
        "sub-01_seg-x_desc-T1w_dseg.json",
        "sub-01_seg-x_desc-T1w_dseg.nii.gz",
        "sub-01_seg-x_desc-T1w_dseg.tsv",
    ]


def test_what_the_same_model_made_before_stays(publish_by, files):
    publish_by("A", *DSEG, *ENTROPY, network=DSEG)
    before = files()
    assert publish_by("A", *DSEG) == []
    assert files() == before


ALL = (*DSEG, *ENTROPY, "morph", "morph_json", "figure")


def only_labels(tree):
    paths = (path for path in tree.rglob("*_dseg.*") if path.suffix != ".png")
    return {p.relative_to(tree).as_posix() for p in paths if "_res-" not in p.name}


def test_what_is_not_published_replaces_nothing(publish_by, files):
    """The tree of a second model holds everything, of which label maps only are published."""
    publish_by("A", *ALL, network=DSEG)
    labels = [name for name in files() if "_res-" not in name and "_dseg." in name]
    publish_by("B", *ALL, network=DSEG, only=only_labels)
    assert files() == [name for name in labels if not name.endswith(".png")]
    assert publish_by("B", *ALL, only=only_labels) == []


def test_a_figure_of_the_same_model_or_of_nobody_stays(publish_by, files):
    publish_by("A", *ALL)
    publish_by("A", *ALL, only=only_labels)
    assert any(name.endswith(".png") for name in files())


def test_other_segmentations_images_and_hands_stay(publish_by, files, tmp_path):
    publish_by("A", *DSEG, *ENTROPY, network=DSEG, segmentation="other")
    elsewhere = {**ENTITIES, "res": "4mm"}
    publish_by("A", *DSEG, source="sub-01/anat/sub-01_res-4mm_T1w.nii.gz", entities=elsewhere)
    folder = tmp_path / "out" / "sub-01" / "anat"
    for key, text in (("probseg_json", "{}"), ("probseg", "by hand"), ("entropy_json", "[")):
        path = derivative_path(ENTITIES, IMAGE_OUTPUTS[key], segmentation="x")
        (folder / path.name).write_text(text)
    before = set(files())
    publish_by("B", *DSEG)
    assert before <= set(files())


def test_without_a_model_in_the_tree_nothing_is_removed(publish_by, files):
    publish_by("A", *DSEG, *ENTROPY)
    before = files()
    assert publish_by("", *DSEG[3:]) == []
    assert files() == before
