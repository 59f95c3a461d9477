"""Memory is predicted from shapes, and what is planned keeps to it."""

import json
import os
import subprocess
import sys

import attrs
import pytest
import torch

from l2s_pydra.config import SegmenterConfig
from l2s_pydra.segmentation import Segmenter
from l2s_pydra.segmentation.planning import easier, plan_prediction

MEASURE = """
import json, sys, torch
from pathlib import Path
from l2s_pydra.config import SegmenterConfig
from l2s_pydra.segmentation import Segmenter, planning
from l2s_pydra.segmentation.inference import predict

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(l.split()[1]) for l in lines if l.startswith(field))

case = json.loads(sys.argv[1])
torch.set_num_threads(1)
net = Segmenter(SegmenterConfig(**case["network"]), case["labels"])
options = case["options"]
predict(net, torch.rand(32, 32, 32), **options)
image = torch.rand(*case["shape"])
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
found = predict(net, image, **options)
print(json.dumps([status("VmHWM") - before, found.values.numel()]))
"""
NETWORK = {"ndim": 3, "width": 16, "depth": 4}
CASES = {
    "whole": ({}, (112, 96, 96), 20, {}),
    "bf16": ({}, (128, 112, 96), 20, {"precision": "bf16"}),
    "draws": ({"depth": 3}, (96, 96, 96), 8, {"draws": 2}),
    "normalised": ({"norm": "instance"}, (96, 80, 80), 8, {}),
    "limited": ({"depth": 3}, (144, 128, 128), 4, {"memory_mb": 340}),
    "slices": ({"ndim": 2}, (160, 160, 64), 20, {}),
}
LIBRARIES = 170e6
"""What the prediction sets aside for what does not grow with the shapes, and a little more."""


# Skipped where there is no /proc: only there can the peak be set back after the libraries are loaded,
# and the peak of the whole process would hide that of the prediction.
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("case", list(CASES))
def test_the_peak_is_as_predicted(case):
    changes, shape, labels, options = CASES[case]
    network = NETWORK | changes
    description = {"network": network, "shape": shape, "labels": labels, "options": options}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(description)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    peak, values = json.loads(done.stdout)
    net = Segmenter(SegmenterConfig(**network), labels)
    keys = ("tiles", "memory_mb")
    plan, warnings = plan_prediction(
        net,
        shape,
        shape,
        device=torch.device("cpu"),
        dtype=torch.bfloat16 if "precision" in options else torch.float32,
        drawn="draws" in options,
        **{key: value for key, value in options.items() if key in keys},
    )
    assert not warnings
    assert plan.footprint.posterior == 4 * values
    # Never more than predicted; and a prediction that is of use.
    assert peak < 1.05 * plan.peak
    assert plan.peak < 1.35 * peak + LIBRARIES
    if "memory_mb" in options:
        assert plan.peak <= 1e6 * options["memory_mb"]
        assert len(plan.tiling) > 1


@pytest.fixture
def plan():
    """Plan for a head with a network of the size that is usual."""
    net = Segmenter(SegmenterConfig(ndim=3, width=24, depth=5), 33)

    def plan(device="cpu", shape=(160, 192, 160), **options):
        return plan_prediction(
            net, shape, shape, device=torch.device(device), dtype=torch.bfloat16, **options
        )

    return plan


def test_a_head_is_segmented_whole_within_the_aim(plan):
    found, warnings = plan()
    assert len(found.tiling) == 1
    assert not warnings
    assert found.peak < 1.5e9
    assert found.words() == "on cpu with the whole volume"


@pytest.mark.parametrize("memory_mb", [1350, 1200, 1100])
def test_less_memory_is_kept_to_by_tiles(plan, memory_mb):
    found, warnings = plan(memory_mb=memory_mb)
    assert not warnings
    assert len(found.tiling) > 1
    assert found.peak <= 1e6 * memory_mb


def test_a_gpu_does_not_hold_the_posteriors(plan):
    whole, _ = plan("cuda")
    assert whole.peak < 0.75e9
    found, warnings = plan("cuda", memory_mb=300)
    assert not warnings
    assert len(found.tiling) > 1
    assert found.footprint.device <= 300e6 < found.footprint.host


def test_what_cannot_be_kept_to_is_said(plan):
    found, (warning,) = plan(memory_mb=500)
    assert len(found.tiling) > 1
    assert "more than the 500 MB it may" in warning
    _, (warning,) = plan(memory_mb=900, tiles=None)
    assert "with the whole volume" in warning


def test_tiles_of_a_side_are_smaller_where_memory_is_short(plan):
    found, _ = plan(tiles=128)
    assert found.tiling.largest == (96, 112, 96)
    small, _ = plan(tiles=128, memory_mb=1100)
    assert max(small.tiling.largest) <= 128
    assert small.peak <= 1.1e9 < found.peak


def test_where_the_posteriors_alone_are_too_much_tiles_are_not_tiny(plan):
    found, warnings = plan(shape=(512, 512, 512))
    assert not warnings
    assert min(found.tiling.largest) > 100


def on_the_cpu(found):
    """Give the plan of the CPU that takes over where smaller tiles do not help any more."""
    while found.device.type == "cuda":
        found = easier(found, torch.float32)
        assert found is not None
    return found


@pytest.mark.parametrize("memory_mb", [None, 2000, 5000])
def test_the_cpu_that_takes_over_keeps_to_the_memory(plan, memory_mb):
    shape = (256, 320, 256)
    taken_over = on_the_cpu(plan("cuda", shape, memory_mb=memory_mb)[0])
    assert taken_over.dtype == torch.float32
    assert len(taken_over.tiling) > 1
    found = taken_over.footprint
    # What holds the image and the posteriors cannot be divided.
    most = 1e6 * (memory_mb or 4000)
    assert found.passing <= max(most - (found.host - found.passing), most / 8)
    assert bool(taken_over.excess) == (memory_mb == 2000)
    # It is predicted for what the CPU computes with.
    assert found.passing > 1.2 * attrs.evolve(taken_over, dtype=torch.bfloat16).footprint.passing


def test_what_was_asked_for_of_tiles_holds_on_the_cpu_that_takes_over(plan):
    assert len(on_the_cpu(plan("cuda")[0]).tiling) == 1
    assert on_the_cpu(plan("cuda", tiles=128)[0]).tiling.largest == (96, 112, 96)
    whole = on_the_cpu(plan("cuda", memory_mb=300, tiles=None)[0])
    assert len(whole.tiling) == 1
    (warning,) = whole.excess
    assert "on cpu with the whole volume, more than the 300 MB it may" in warning
