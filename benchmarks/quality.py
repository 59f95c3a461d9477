"""Is the predicted Dice right? On labelled images, of contrasts that the prediction was not fitted to.

Models of a comparison (``l2s-pydra ... learn --compare``, or ``benchmarks/real_data.py``) segment the
images of some participants, in every contrast there is. For every structure the Dice that the model
predicts from its posteriors is compared with the Dice to the reference, on the image's own grid, and
so is the raw agreement of posteriors and label map (self-Dice) that it is made of. The prediction was
fitted to the validation images of the contrast that was learned: that contrast is printed apart, and
the other ones are what counts. Error is the root mean square over structures, images and models.

    python benchmarks/quality.py MODELS_DIR BIDS_DIR LABELS_DIR --participants LABEL ...
        [--labels-desc DESC] [--prefixes NAME ...] [--quick] [--device cpu] [--json FILE]
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import _table
import numpy as np

LEARNED = "T1w"
FLAGGED = 0.5
"""A structure whose predicted Dice is below that is remarked on the participant's page."""
Values = dict[str, list[tuple[float, float, float]]]
"""Of each contrast: predicted Dice, self-Dice, Dice."""


def images_of(bids: Path, participants: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Participant and file of each image."""
    for participant in participants:
        for path in sorted((bids / f"sub-{participant}" / "anat").glob("*.nii*")):
            yield participant, path


def compare(
    folder: Path, images: Sequence[tuple[str, Path]], labels: Path, desc: str, device: str
) -> Values:
    """Segment every image with a model and compare."""
    import torch

    from l2s_pydra.images.volume import load_image
    from l2s_pydra.labels import LabelScheme
    from l2s_pydra.segmentation import Model, dice_scores
    from l2s_pydra.steps.posterior import predict
    from l2s_pydra.steps.quality import predicted_dice

    model = Model.load(folder)
    quality, names = model.config.get("quality"), model.scheme.names
    theirs = LabelScheme.read(labels / f"desc-{desc}_dseg.tsv")
    values = dict(zip(theirs.names, theirs.indices, strict=True))
    found: Values = {}
    for participant, path in images:
        # Contrasts are on one grid, so that any of the participant's references will do.
        reference = min((labels / f"sub-{participant}" / "anat").glob(f"*desc-{desc}_dseg.nii*"))
        drawn = np.rint(load_image(reference).data)
        truth = np.zeros(drawn.shape, dtype=np.int64)
        for channel, name in enumerate(names):
            truth[drawn == values.get(name, -1)] = channel
        made = predict(model, load_image(path), torch.device(device), weights=folder)
        agreement = made.soft().self_dice
        dice = dice_scores(
            torch.from_numpy(made.channels().astype(np.int64)), torch.from_numpy(truth), len(names)
        )
        told = predicted_dice(quality, names, agreement)
        contrast = path.name.split("_")[-1].split(".")[0]
        for guess, score, true in zip(told[1:], agreement[1:], dice.tolist(), strict=True):
            if guess is not None and np.isfinite(true):
                found.setdefault(contrast, []).append((guess, float(score), true))
    return found


def rows(found: Values) -> list[_table.Row]:
    """Error, bias and correlation of both scores, and what remarks would have found."""
    contrasts = dict(sorted(found.items(), key=lambda item: item[0] != LEARNED))
    contrasts["all others"] = [v for c, values in found.items() if c != LEARNED for v in values]
    made = []
    for contrast, values in contrasts.items():
        if not values:
            continue
        guess, score, true = np.array(values).T
        base = f"self-Dice {contrast}"
        raw = float(np.sqrt(np.mean((score - true) ** 2)))
        for name, told in ((base, score), (f"predicted {contrast}", guess)):
            error = float(np.sqrt(np.mean((told - true) ** 2)))
            made.append(_table.row(name, "error", error, "", base, raw))
            made.append(_table.row(name, "bias", float(np.mean(told - true)), "", "", 0))
            if np.ptp(told) and np.ptp(true):
                together = float(np.corrcoef(told, true)[0, 1])
                made.append(_table.row(name, "correlation", together, "", "", 0))
        bad, told = true < FLAGGED, guess < FLAGGED
        name = f"remarked {contrast}"
        if bad.any():
            made.append(_table.row(name, "found", float(told[bad].mean()), "", "", 0))
        if told.any():
            made.append(_table.row(name, "rightly", float(bad[told].mean()), "", "", 0))
    return made


def main() -> None:
    """Segment, compare, print."""
    parser = _table.parser((__doc__ or "").split("\n\n")[0])
    parser.add_argument("models", type=Path, help="folder that holds model-<name> folders")
    parser.add_argument("bids", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--participants", nargs="+", required=True)
    parser.add_argument("--labels-desc", default="common")
    parser.add_argument("--prefixes", nargs="+", default=[""], help="of the models' names")
    options = parser.parse_args()
    folders = sorted(
        folder
        for folder in options.models.glob("model-*")
        if folder.name.removeprefix("model-").startswith(tuple(options.prefixes))
    )
    images = list(images_of(options.bids, options.participants))
    if not folders or not images:
        sys.exit(f"no models in {options.models}, or no images in {options.bids}")
    everything: Values = {}
    for folder in folders[: 1 if options.quick else None]:
        print(folder.name, flush=True)
        values = compare(folder, images, options.labels, options.labels_desc, options.device)
        for contrast, some in values.items():
            everything.setdefault(contrast, []).extend(some)
    print(f"{len(folders)} model(s), {len(images)} image(s)")
    _table.report(rows(everything), options.json)


if __name__ == "__main__":
    main()
