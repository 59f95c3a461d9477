"""The text that goes with a model."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["model_card"]

_MODES = {
    "learn2synth": "Learn2Synth: the segmenter saw synthetic images only; the labelled scans "
    "decided how these look (hypergradient through the segmenter's update)",
    "synthseg": "synthetic images with fixed, wide random contrast only (SynthSeg)",
    "supervised": "the labelled scans only, augmented",
}


def model_card(config: Mapping[str, Any], splits: Sequence[Mapping[str, str]]) -> str:
    """Write a model card (Mitchell et al., FAT* 2019) from a model's record.

    Parameters
    ----------
    config : mapping
        ``config.json`` of the model.
    splits : sequence of mappings
        Rows of ``splits.tsv``.

    Returns
    -------
    str
        Markdown.
    """
    training = config["learn"]["training"]
    learners = sorted({r["participant_id"] for r in splits if r["role"] == "learn"})
    judges = sorted({r["participant_id"] for r in splits if r["role"] == "validate"})
    scores = config["validation_dice"]
    table = "\n".join(
        f"| {name} | {'n/a' if score is None else format(score, '.3f')} |"
        for name, score in scores.items()
    )
    stripped = "skull-stripped" if config["skull_stripped"] else "whole-head"
    return f"""# Model {config["name"]}

A {config["learn"]["segmenter"]["ndim"]}-D U-Net ({config["parameters"]:,} parameters) that
segments brain images into `seg-{config["segmentation"]}` ({len(scores)} structures) at
{config["learn"]["spacing_mm"]:g} mm. Made by l2s_pydra {config["version"]}, torch
{config["torch"]}.

## Training

- Mode: {_MODES[training["mode"]]}.
- {training["steps"]} steps in {config["seconds"] / 60:.0f} minutes on {config["device"]};
  seed {training["seed"]}.
- Learned from: {", ".join(learners)} ({stripped} images).
- Label maps for synthesis: {len(config["label_maps"])}, and those of the participants above.
- Validated, for the choice of the weights, on: {", ".join(judges)}.
- The complete settings are in `config.json`, the log in `training.tsv`, learned values in
  `theta.json`.

## Accuracy

Dice on the validation participants, on the working grid, at the chosen step
({config["best_step"]}); mean {config["best_dice"]:.3f}. These participants chose the weights, so
that new participants may score lower.

| structure | Dice |
| --- | --- |
{table}

## Use and limits

For research on images like those learned from: {stripped}, at a resolution of about
{config["learn"]["spacing_mm"]:g} mm or better. Not a medical device. Look at the overlays before
you use the volumes. The licence of the training data may limit what this model may be used for.
`samples/` and the figures of `report.html` show scans of the participants learned from: mind their
privacy before you pass this folder on; the weights work without them.
"""
