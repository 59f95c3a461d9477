"""Train the default model: five trainings, each from the weights of the one before.

    python benchmarks/default_model_recipe/train.py LABEL_MAPS FOLDER [options of l2s-pydra]

LABEL_MAPS is the BIDS derivative with the public label maps of SynthSeg (20 heads, Apache-2.0), FOLDER
gets ``stage-1`` to ``stage-5`` with a model each, and ``work`` with checkpoints. No real image is
used. The same command goes on after an interruption. Voxel sizes go from 4 to 1.5 mm, as a voxel of
4 mm stands for eight of 2 mm; the last two show slabs of heads, too. ``stage*.json`` hold the
settings, seeds included.
"""

import sys
from pathlib import Path

from l2s_pydra.workflows.cli import main

HERE = Path(__file__).parent
HELD_OUT = ("synthseg19", "synthseg20")
"""Heads whose synthetic images choose the weights."""


def command(maps: Path, folder: Path, stage: Path, before: Path | None) -> list[str]:
    """Arguments of ``l2s-pydra`` for one stage."""
    number = stage.stem.removeprefix("stage").partition("_")[0]
    options = {
        "--work-dir": folder / "work",
        "--label-maps": maps,
        "--label-mapping": HERE / "mapping.tsv",
        "--target-labels": HERE / "labels.tsv",
        "--segmentation": "l2s",
        "--config": stage,
    }
    if before is not None:
        options["--start-from"] = before
    given = [str(part) for option in options.items() for part in option]
    return [
        *(str(maps), str(folder / f"stage-{number}"), "learn", "--skip-bids-validation", *given),
        *("--validation-participants", *HELD_OUT),
    ]


def train(maps: Path, folder: Path, further: list[str]) -> int:
    """Run all stages; return the exit code of the first that fails, or 0."""
    before: Path | None = None
    for stage in sorted(HERE.glob("stage*.json")):
        arguments = command(maps, folder, stage, before)
        code = main([*arguments, *further])
        if code:
            return code
        (before,) = Path(arguments[1]).glob("models/model-*")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(train(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:]))
