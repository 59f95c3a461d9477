"""The text that goes with a model."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["estimator_in_words", "model_card"]

_MODES = {
    "learn2synth": "Learn2Synth: the segmenter saw synthetic images only; the labelled scans "
    "decided how these look (hypergradient through the segmenter's update)",
    "synthseg": "synthetic images with fixed, wide random contrast only (SynthSeg)",
    "supervised": "the labelled scans only, augmented",
    "mixed": "the labelled scans, augmented, and synthetic images in turn",
    "mixed-randomised": "the labelled scans, augmented and partly with random contrast, and "
    "synthetic images in turn",
    "learn2synth-mixed": "the labelled scans, augmented and partly with random contrast, and "
    "synthetic images in turn, whose looks the labelled scans decided (Learn2Synth's hypergradient)",
    "finetuned": "synthetic images first (SynthSeg), then the labelled scans, augmented",
    "finetuned-averaged": "synthetic images first (SynthSeg), then the labelled scans, augmented; "
    "the mean of the weights before and after the second part",
}


def estimator_in_words(asked_for: str, checks: Sequence[Mapping[str, Any]]) -> str:
    """Say how the hypergradient of a run was computed.

    Parameters
    ----------
    asked_for : str
        The setting ``training.estimator``.
    checks : sequence of mappings
        :attr:`~l2s_pydra.bilevel.state.TrainingState.checks`.

    Examples
    --------
    >>> check = {"estimator": "one_sided_difference", "epsilon": 0.01, "step": 300,
    ...     "error": 0.021, "cosine": 0.9998}
    >>> estimator_in_words("auto", [check, {**check, "error": 0.04}])
    'one_sided_difference (chosen by trial; relative error at most 0.04)'
    """
    if not checks:
        return asked_for
    names = [
        str(check["estimator"]) + (" in full precision" if check.get("full_precision") else "")
        for check in checks
    ]
    used = ", later ".join(name for i, name in enumerate(names) if i == 0 or names[i - 1] != name)
    worst = max(float(check["error"]) for check in checks)
    return f"{used} (chosen by trial; relative error at most {worst:.2g})"


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
    scores = config["validation_dice"]
    table = "\n".join(
        f"| {name} | {'n/a' if score is None else format(score, '.3f')} |"
        for name, score in scores.items()
    )
    how = ""
    if training["mode"].startswith("learn2synth"):
        how = f"- Hypergradient: {config['estimator']}.\n"
    if config["skipped_steps"]:
        how += f"- Skipped for a loss or gradient that was not finite: {config['skipped_steps']} steps.\n"
    for change in config.get("memory", {}).get("changes", ()):
        how += f"- Memory: {change['why']}\n"
    start = config.get("start_from")
    if start:
        how += (
            f"- Started from the weights of {start['name']} ({start['spacing_mm']:g} mm, "
            f"sha256 {start['sha256']}).\n"
        )
    stripped = _stripped(config)
    sources, judged, limits = (
        _from_scans(config, splits, stripped) if splits else _from_maps(config, stripped)
    )
    return f"""# Model {config["name"]}

A {config["learn"]["segmenter"]["ndim"]}-D U-Net ({config["parameters"]:,} parameters) that
segments brain images into `seg-{config["segmentation"]}` ({len(scores)} structures) at
{config["learn"]["spacing_mm"]:g} mm. Made by l2s_pydra {config["version"]}, torch
{config["torch"]}.

## Training

- Mode: {_MODES[training["mode"]]}.
- {training["steps"]} steps in {config["seconds"] / 60:.0f} minutes on {config["device"]};
  seed {training["seed"]}.
{how}{sources}- The complete settings are in `config.json`, the log in `training.tsv`, learned values in
  `theta.json`.

## Accuracy

{judged}

| structure | Dice |
| --- | --- |
{table}

## Use and limits

{limits}
"""


def _stripped(config: Mapping[str, Any]) -> str:
    """Say whether images were skull-stripped."""
    if config["skull_stripped"]:
        return "skull-stripped"
    both = config["learn"]["synthesis"].get("strip_share", 0) > 0
    return "whole-head and skull-stripped" if both else "whole-head"


def _from_scans(
    config: Mapping[str, Any], splits: Sequence[Mapping[str, str]], stripped: str
) -> tuple[str, str, str]:
    """Describe sources, judgement and limits of a model that labelled scans were there for."""
    learners, judges = (
        ", ".join(sorted({r["participant_id"] for r in splits if r["role"] == role}))
        for role in ("learn", "validate")
    )
    return (
        f"""- Learned from: {learners} ({stripped} images).
- Label maps for synthesis: {len(config["label_maps"])}, and those of the participants above.
- Validated, for the choice of the weights, on: {judges}.
""",
        f"""Dice on the validation participants, on the working grid, at the chosen step
({config["best_step"]}); mean {config["best_dice"]:.3f}. These participants chose the weights, so
that new participants may score lower.""",
        f"""For research on images like those learned from: {stripped}, at a resolution of about
{config["learn"]["spacing_mm"]:g} mm or better. Not a medical device. Look at the overlays before
you use the volumes. The licence of the training data may limit what this model may be used for.
`samples/` and the figures of `report.html` show scans of the participants learned from: mind their
privacy before you pass this folder on; the weights work without them.""",
    )


def _from_maps(config: Mapping[str, Any], stripped: str) -> tuple[str, str, str]:
    """Describe sources, judgement and limits of a model that no real image was there for."""
    held_out = config["validation_maps"]
    return (
        f"""- No real image was seen. Label maps for synthesis: {len(config["label_maps"])}; images {stripped}.
- Validated, for the choice of the weights, on synthetic images, always the same, of held-out label
  maps: {", ".join(held_out)}.
""",
        f"""Dice on synthetic images of the held-out label maps, on the working grid, at the chosen step
({config["best_step"]}); mean {config["best_dice"]:.3f}. Synthetic images are of many contrasts, poor
ones too, and follow the protocol of the label maps: on real images, and by another protocol, other
values will be found.""",
        f"""For research on images of any contrast, {stripped}, at a resolution of about
{config["learn"]["spacing_mm"]:g} mm or better. Not a medical device. Look at the overlays before
you use the volumes. The licence of the label maps may limit what this model may be used for.""",
    )
