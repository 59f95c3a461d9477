"""Two models on the same images, of one and of two segmentations."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from l2s_pydra.bids.verifying import verify

FOUR = ("--skip-bids-validation", "--participant-label", "04")
STEM = "sub-04/anat/sub-04_"


@pytest.fixture
def other(model, tmp_path):
    """Make a model with other weights, of some segmentation."""

    def other(segmentation):
        folder = tmp_path / f"model-{segmentation}2"
        shutil.copytree(model, folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"name": f"{segmentation}2", "segmentation": segmentation}
        (folder / "config.json").write_text(json.dumps(config))
        weights = load_file(folder / "weights.safetensors")
        torch.manual_seed(0)
        changed = {
            name: value + torch.randn_like(value) if value.is_floating_point() else value
            for name, value in weights.items()
        }
        save_file(changed, folder / "weights.safetensors")
        return folder

    return other


def test_two_segmentations_share_a_mask_and_leave_each_other_alone(
    copied, phantom, app, model, other
):
    """The mask, whose name may not tell the segmentation, is that of the last one."""

    def run(folder):
        done = app(
            phantom, copied.output, copied.work, "participant", *FOUR, "--model", str(folder)
        )
        assert done.code == 0, done.said
        return done.said

    def maker(name):
        return json.loads((copied.output / f"{STEM}{name}.json").read_text())["ModelName"]

    first = copied.output / "models" / model.name
    second = other("other")
    assert "1 done, 0 restored, 0 reused" in run(second)
    for folder in (first, second, first):
        assert "0 done, 0 restored, 1 reused" in run(folder)
    assert maker("seg-tissue_desc-T1w_dseg") != "other2"
    assert maker("label-brain_desc-T1w_mask") == maker("seg-other_desc-T1w_dseg") == "other2"
    assert verify(copied.output, phantom).is_good

    (activities,) = (copied.output / "prov").glob("prov-sub04_act.json")
    used = {a["Id"]: a["Used"] for a in json.loads(activities.read_text())["Activities"]}
    files = json.loads((copied.output / "prov" / "prov-sub04_ent.json").read_text())["Files"]
    by_name = {file.get("AtLocation"): file for file in files}
    (made_by,) = by_name[f"{STEM}label-brain_desc-T1w_mask.nii.gz"]["GeneratedBy"]
    assert [made_by] == by_name[f"{STEM}seg-other_desc-T1w_dseg.nii.gz"]["GeneratedBy"]
    assert not any(name.startswith("bids:models:") for name in used[made_by])


def test_label_maps_of_a_second_model_stand_alone(copied, phantom, app, other):
    """Mask, volumes, figure and page of the first model would contradict them."""
    second = other("tissue")
    arguments = (*FOUR, "--model", str(second), "--seg-only")
    run = app(phantom, copied.output, copied.work, "participant", *arguments)
    assert run.code == 0, run.said
    left = {p.name for p in (copied.output / "sub-04").rglob("sub-04_*") if p.is_file()}
    stem = "sub-04_seg-tissue_desc-T1w_dseg"
    assert left == {f"{stem}.nii.gz", f"{stem}.json", f"{stem}.tsv"}
    assert "_dseg.png" not in (copied.output / "sub-04.html").read_text()
    assert "sub-04_T1w" not in (copied.output / "sub-04.html").read_text()
    assert verify(copied.output, phantom).is_good
