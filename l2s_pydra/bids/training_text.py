"""How a model was trained, in the words of a methods section."""

from collections.abc import Mapping
from typing import Any

from .words import counted, listed, plain

__all__ = ["cited_by", "training_text"]

_SYNTHETIC = "synthetic images (generator of SynthSeg; Billot et al., 2023)"
_LEARNED = (
    f"{_SYNTHETIC}, whose appearance was itself learned from real images by hypergradients "
    "(Learn2Synth; Hu et al., 2025)"
)
_REAL = "real images with manual labels"
_TRAINING = {
    "learn2synth": f"on {_LEARNED}",
    "synthseg": f"on {_SYNTHETIC}",
    "supervised": f"on {_REAL}",
    "mixed": f"on {_REAL} and on {_SYNTHETIC}",
    "mixed-randomised": f"on {_REAL}, partly with random contrast, and on {_SYNTHETIC}",
    "learn2synth-mixed": f"on {_REAL}, partly with random contrast, and on {_LEARNED}",
    "finetuned": f"on {_SYNTHETIC} and then on {_REAL}",
    "finetuned-averaged": f"on {_SYNTHETIC} and then on {_REAL}; the weights before and after were "
    "averaged",
}
_LOSSES = {
    "ce": "cross-entropy",
    "dice": "soft Dice loss",
    "ce_dice": "sum of cross-entropy and soft Dice loss",
    "logit_mse": "mean squared error of the logits",
}
_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "stochastic gradient descent"}


def cited_by(model: Mapping[str, Any]) -> set[str]:
    """Keys of the references that the training of a model cites.

    Parameters
    ----------
    model : mapping
        What is known of it (:func:`l2s_pydra.bids.uses.model_facts`).
    """
    mode = _mode(model)
    keys = {"unet"}
    if mode and mode != "supervised":
        keys.add("synthseg")
    if mode.startswith("learn2synth"):
        keys.add("learn2synth")
    return keys


def training_text(model: Mapping[str, Any]) -> list[str]:
    """Describe the training of a model.

    Parameters
    ----------
    model : mapping
        What is known of it (:func:`l2s_pydra.bids.uses.model_facts`).

    Returns
    -------
    list of str
        Paragraphs of Markdown; none if nothing is known but name and checksum. For a learned
        synthesis, the last one is a table of the values learned.
    """
    mode = _mode(model)
    if not mode:
        return []
    parts = [" ".join((_network(model, mode), _data(model, mode), _chosen(model)))]
    theta = model.get("theta")
    if mode.startswith("learn2synth") and isinstance(theta, Mapping) and theta:
        parts += [
            f"Values learned of the synthesis (augmentation `{plain(_augmentation(model))}`; "
            "running averages of the last iterates; intensities are on the scale from 0 to 1):",
            _table(theta),
        ]
    return parts


def _mode(model: Mapping[str, Any]) -> str:
    learn = model.get("learn")
    training = learn.get("training") if isinstance(learn, Mapping) else None
    mode = str(training.get("mode")) if isinstance(training, Mapping) else ""
    return mode if mode in _TRAINING else ""


def _augmentation(model: Mapping[str, Any]) -> str:
    return str(model["learn"].get("augmentation", {}).get("name", "n/a"))


def _network(model: Mapping[str, Any], mode: str) -> str:
    learn, training = model["learn"], model["learn"]["training"]
    segmenter = learn["segmenter"]
    size = f", {model['parameters']:,} parameters" if "parameters" in model else ""
    ends = " at most" if training.get("max_minutes") or training.get("patience") else ""
    batch = counted(int(training["batch_size"]), "image")
    return (
        f"The model {plain(model['name'])} is a {segmenter['ndim']}-D U-Net ({segmenter['depth']} "
        f"levels, {segmenter['width']} channels in the first{size}) for voxels of "
        f"{float(learn['spacing_mm']):g} mm, which was trained {_TRAINING[mode]}. The training took"
        f"{ends} {counted(int(training['steps']), 'step')} of {batch} "
        f"({_OPTIMIZERS.get(training['optimizer'], plain(training['optimizer']))}, "
        f"{'peak ' if training['schedule'] == 'cosine' else ''}learning rate "
        f"{float(training['learning_rate']):g}, "
        f"{_LOSSES.get(training['loss'], plain(training['loss']))}, random seed "
        f"{training['seed']})."
    )


def _data(model: Mapping[str, Any], mode: str) -> str:
    learners = _people(model, "learn")
    maps = len(model.get("label_maps") or ())
    said = []
    if mode != "supervised":
        sources = [counted(maps, "label map")] if maps else []
        sources += [f"the manual labels of {learners}"] if learners else []
        said += [f"Synthetic images were made from {listed(sources)}."] if sources else []
    if learners and mode == "supervised":
        said.append(f"The real images were {learners}.")
    elif learners and mode.startswith("learn2synth"):
        said.append(
            f"The synthesis was learned from {learners}: its parameters followed the gradient, "
            "through the update of the network, of the loss on these"
            f"{_estimator(model)}."
        )
    elif learners and mode != "synthseg":
        said.append(f"The real images were {learners}.")
    return " ".join(said)


def _estimator(model: Mapping[str, Any]) -> str:
    words = plain(model.get("estimator", "")).replace("_", " ")
    return f" (estimator: {words})" if words else ""


def _chosen(model: Mapping[str, Any]) -> str:
    judges, best = _people(model, "validate"), model.get("best_dice")
    if not isinstance(best, int | float):
        return ""
    on = (
        f" on {judges}, which the network was not trained on" if judges else " on validation images"
    )
    comma = "," if judges else ""
    return (
        f"Of the running averages of the weights, those with the best mean Dice{on}{comma} were kept "
        f"({float(best):.3f}, step {model.get('best_step', 'n/a')})."
    )


def _people(model: Mapping[str, Any], role: str) -> str:
    counts = (model.get("roles") or {}).get(role)
    if not counts:
        return ""
    return (
        f"{counted(counts['images'], 'scan')} of {counted(counts['participants'], 'participant')}"
    )


def _table(theta: Mapping[str, Any]) -> str:
    numbers = {k: v for k, v in theta.items() if isinstance(v, int | float)}
    rows = [f"| {plain(name)} | {value:.4g} |" for name, value in numbers.items()]
    return "\n".join(["| parameter | value |", "| --- | --- |", *rows])
