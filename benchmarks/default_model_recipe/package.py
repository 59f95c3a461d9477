"""Put a model that ``train.py`` has trained into the package, in half precision, with its card.

    python benchmarks/default_model_recipe/package.py FOLDER [--stage N] [--name default]
        [--judged FOLDER] [--replace]

FOLDER is that of ``train.py``; the last finished stage is taken. ``--judged`` is what
``benchmarks/default_model.py --out`` wrote of the packaged model: package first without it, judge,
then package again with it and ``--replace``. The package gets the weights (float16, safetensors),
settings, labels, the logs of all stages, the tables, Dice on the ICBM 152 template (for a test that
these weights always do the same), pictures of the template as it is and as it fails, and the checksums
of all of them. Pictures of the scans that it was judged on are not packaged: their licence is another.
"""

import argparse
import csv
import hashlib
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from l2s_pydra import models
from l2s_pydra.segmentation import Model

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
MOST_BYTES = 25_000_000
CARD = """\
# Model {name}

The default model of l2s_pydra: a 3-D U-Net ({parameters:,} parameters, float16) that segments the brain
in images of any contrast, of whole heads and skull-stripped ones, into {count} structures, left and right
apart (`seg-{segmentation}`, FreeSurfer's numbers), at {spacing_mm:g} mm.

## Intended use

For research: volumes and masks of structures in structural MRI of adults, where labels of FreeSurfer's
kind are wanted and no model was trained for the data at hand. Not a medical device; not validated for
children, tumours, large lesions or surgery. Look at the overlays before you use numbers.

## Training data and licences

The {maps} label maps of whole heads that SynthSeg (Billot et al., 2023) made public under Apache-2.0, and
{held_out} more, held out, whose synthetic images chose the weights. No real image was seen, and the
ranges of the synthesis are the published ones. The weights are under
the licence of this package, Apache-2.0.

## Training

{stages}
Settings and seeds: `config.json` here, and `benchmarks/default_model_recipe` of the repository for all
stages; logs: `training-*.tsv`; Dice on the ICBM 152 template, which a test compares: `template.json`.
The command:

    python benchmarks/default_model_recipe/train.py LABEL_MAPS FOLDER

## Accuracy

On synthetic images of the held-out heads, at the end: mean Dice {best_dice:.3f}{slabs}.

{judged}
{pictures}
## Limits

- Structures of less than about {least_mm3:.0f} mm3 are below what the working grid resolves.
- Labels follow FreeSurfer's protocol. By others, cortex and accumbens above all differ: references
  that count the fluid in sulci as cortex lower its Dice whatever the model does.
- Scans that show less than about 30 mm of a head are segmented worse the thinner they are (slabs in the table
  of changes: the lowest Dice is of structures of which a slab holds a corner). In a slab of 8 mm through the
  basal ganglia of a child, cortex, white matter, thalamus and putamen are where they belong, the caudate is partly
  taken for ventricle, and the pallidum is all but missing. Reports say which structures are missing, and where
  the field of view ends.
- Cerebrospinal fluid around the brain is no label, so there is no intracranial volume.
- Lesions were never seen; they go to what surrounds them or to ventricles.
"""
JUDGED = """\
On real scans, none of which was trained on or chose weights (that the last stages work at 1.5 mm was decided
with the T1w scans of three of them in view, though they spoke for 2 mm before one was trained; that there is a
fifth, with slabs, because of the child's scan below): mean Dice and half of its 95 % interval
over participants, left and right together. First the scans as they are, then contrasts that were
simulated from them: intensities by structure, by a random curve, and upside down
(`benchmarks/_contrasts.py`). The first column is what the voxel size allows: the manual labels, taken to the
model's grid and back. Nor does the model know the protocol of these references (Neuromorphometrics): it
learned FreeSurfer's, by which cortex has 452 ml in the label maps and not 606 ml, as fluid in sulci is not
counted; one of the two inside the other has a Dice of 0.85. Of the other structures, too, a part of the
difference is of protocols. Below: what becomes of one segmentation when the image is changed; Dice with that
of the unchanged image (slices of 2, 4 and 6 mm are compared with labels half a millimetre away).

{tables}
### Where it fails

{failures}
"""
PICTURES = """\
## Pictures

The ICBM 152 template, which nilearn has on board, as it is and changed; Dice with the segmentation of
the template as it is, mean over labels (lowest label).

{pictures}
"""
PICTURED = (
    "contrast upside down", "6 mm slices", "Rician noise, 10 % of the range",
    "turned by 30 degrees about the y axis", "bias field from 1/2 to 2", "middle 8 mm only",
)  # fmt: skip
"""Changes of the template that are drawn."""
NOT_JUDGED = "It was not judged on real scans yet.\n"


def finished(folder: Path) -> list[Path]:
    """Model folder of each finished stage, in order."""
    found = []
    for stage in sorted(folder.glob("stage-[0-9]")):
        found += sorted(stage.glob("models/model-*"))
    return found


def stages_in_words(folders: list[Path]) -> str:
    """One line a stage."""
    lines = []
    for number, folder in enumerate(folders, 1):
        record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        training, synthesis = record["learn"]["training"], record["learn"]["synthesis"]
        crop = " x ".join(map(str, synthesis["crop"] or record["grid_shape"]))
        if synthesis.get("coverage_share"):
            most = synthesis.get("coverage_most_mm")
            crop += f" voxels, {100 * synthesis['coverage_share']:.0f} % of them slabs of "
            crop += f"{synthesis['coverage_least_mm']:g} mm " + (
                f"to {most:g} mm" if most else "or more"
            )
        else:
            crop += " voxels"
        lines.append(
            f"{number}. {record['learn']['spacing_mm']:g} mm, images of {crop}, "
            f"{training['steps']} steps, seed {training['seed']}, {record['seconds'] / 3600:.1f} h with "
            f"{record['threads']} thread(s) beside other work; validation {record['best_dice']:.3f}\n"
        )
    return "".join(lines)


def halved(model: Model) -> tuple[bytes, str]:
    """Weights in float16, and their checksum."""
    weights = {k: v.to(torch.float16).contiguous() for k, v in model.segmenter.state_dict().items()}
    if not all(bool(torch.isfinite(v).all()) for v in weights.values()):
        raise SystemExit("some weights are beyond the range of float16")
    content = save(weights)
    return content, hashlib.sha256(content).hexdigest()


def write_log(source: Path, target: Path) -> None:
    """Copy a log without the augmentation's values, which did not move."""
    with source.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    names = [name for name in rows[0] if not name.startswith(("theta", "real_loss"))]
    lines = ["\t".join(names), *("\t".join(row[name] for name in names) for row in rows)]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def failures_in_words(judged: Path) -> str:
    """The images, structures and changes that went worst."""
    from default_model import LIMIT

    with (judged / "accuracy.tsv").open(encoding="utf-8") as file:
        rows = [
            r
            for r in csv.DictReader(file, delimiter="\t")
            if r["dice"] != "nan" and r["contrast"] != LIMIT
        ]
    with (judged / "robustness.tsv").open(encoding="utf-8") as file:
        changes = sorted(csv.DictReader(file, delimiter="\t"), key=lambda r: float(r["dice"]))
    images: dict[str, list[float]] = {}
    for row in rows:
        images.setdefault(f"{row['contrast']} of {row['participant']}", []).append(
            float(row["dice"])
        )
    means = sorted((statistics.fmean(values), name) for name, values in images.items())
    worst = sorted(rows, key=lambda r: float(r["dice"]))[:5]
    lost = [f"{r['structure']} ({r['contrast']})" for r in rows if r["lost"] == "True"]
    told = ", ".join(
        f"{r['structure']} {float(r['dice']):.2f} ({r['contrast']} of {r['participant']})"
        for r in worst
    )
    harmful = ", ".join(f"{r['change']} {float(r['dice']):.2f}" for r in changes[:3])
    return (
        f"- Worst images, mean Dice: {', '.join(f'{name} {value:.2f}' for value, name in means[:3])}.\n"
        f"- Worst structures: {told}.\n"
        f"- Structures of which nothing was found: {', '.join(lost) or 'none'}.\n"
        f"- Worst changes: {harmful}.\n"
    )


def draw_template(target: Path) -> str:
    """Draw what the model makes of the template, changed too; captions for the card."""
    import _changes
    import nibabel
    import numpy as np
    from default_model import dice
    from nilearn.datasets import load_mni152_template

    from l2s_pydra import load_model
    from l2s_pydra.reports import draw_sheet

    model = load_model(target)
    template = load_mni152_template(resolution=1)
    image = nibabel.Nifti1Image(template.get_fdata(dtype=np.float32), template.affine)
    clean = np.asarray(model.segment(image, device="cpu").labels.dataobj)
    values = [label.index for label in model.model.scheme.labels if label.index]
    lines = []

    def draw(title: str, key: str, changed: Any, labels: Any) -> None:
        shown = [
            nibabel.as_closest_canonical(nibabel.Nifti1Image(np.float32(data), changed.affine))
            for data in (changed.get_fdata(), labels)
        ]
        draw_sheet(
            [shown[0].get_fdata()],
            [np.asarray(shown[1].dataobj).astype(np.int16)],
            [title],
            target / "figures" / f"{key}.png",
            affine=shown[0].affine,
            limits=(0.0, float(np.percentile(changed.get_fdata(), 99.5))),
            columns=1,
            width_px=900,
        )
        lines.append(f"![{title}](figures/{key}.png)\n\n{title}\n")

    draw("as it is", "template", image, clean)
    for change in _changes.CHANGES:
        if change.name in PICTURED:
            changed, back = change.make(image)
            labels = np.asarray(model.segment(changed, device="cpu").labels.dataobj)
            found, kept = back(labels, clean, model.model.scheme)
            scores = [v for v in dice(found, kept, values).values() if v == v]
            title = f"{change.name}: {statistics.fmean(scores):.2f} ({min(scores):.2f})"
            draw(title, change.key.lower(), changed, labels)
    return PICTURES.format(pictures="\n".join(lines))


def card(record: dict[str, Any], stages: str, judged: Path | None, pictures: str) -> str:
    """Model card."""
    tables = (judged / "default_model.md").read_text(encoding="utf-8") if judged else ""
    learn = record["learn"]
    return CARD.format(
        name=record["name"],
        parameters=record["parameters"],
        count=len(record["validation_dice"]),
        segmentation=record["segmentation"],
        spacing_mm=learn["spacing_mm"],
        maps=len(record["label_maps"]),
        held_out=len(record["validation_maps"]),
        best_dice=record["best_dice"],
        slabs=" (the share of slabs among them is that of the last stage; in thin ones not even the sides "
        "can be told apart)"
        if learn["synthesis"].get("coverage_share")
        else "",
        least_mm3=8 * learn["spacing_mm"] ** 3,
        stages=stages,
        judged=JUDGED.format(tables=tables, failures=failures_in_words(judged))
        if judged
        else NOT_JUDGED,
        pictures=pictures,
    )


def package(folders: list[Path], target: Path, judged: Path | None) -> None:
    """Write the packaged model."""
    source = folders[-1]
    model = Model.load(source)
    weights, digest = halved(model)
    record = {**model.config, "packaged_from": {"name": model.name, "sha256": model.sha256}}
    record["name"] = f"{model.config['segmentation']}{digest[:8]}"
    target.mkdir(parents=True)
    (target / "weights.safetensors").write_bytes(weights)
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")
    shutil.copy(source / "labels.tsv", target / "labels.tsv")
    for number, folder in enumerate(folders, 1):
        write_log(folder / "training.tsv", target / f"training-{number}.tsv")
    if judged:
        for name in ("accuracy.tsv", "robustness.tsv"):
            shutil.copy(judged / name, target / name)
    scores = _template_dice(target)
    (target / "template.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    text = card(record, stages_in_words(folders), judged, draw_template(target) if judged else "")
    (target / "MODELCARD.md").write_text(text, encoding="utf-8")
    models.write_checksums(target)
    size = sum(path.stat().st_size for path in target.rglob("*"))
    if size > MOST_BYTES:
        raise SystemExit(f"{target}: {size} bytes are more than {MOST_BYTES}")


def _template_dice(folder: Path) -> dict[str, float]:
    from _template import template_dice

    from l2s_pydra import load_model

    return template_dice(load_model(folder))


def main() -> None:
    """Parse the command line and package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stage", type=int, help="take this one; default: the last finished one")
    parser.add_argument("--name", default="default")
    parser.add_argument("--judged", type=Path)
    parser.add_argument("--replace", action="store_true")
    options = parser.parse_args()
    folders = finished(options.folder)[: options.stage]
    if not folders:
        raise SystemExit(f"{options.folder}: no stage is finished; run train.py")
    target = models.ROOT / options.name
    if options.replace and target.is_dir():
        shutil.rmtree(target)
    package(folders, target, options.judged)
    print(models.packaged_model(options.name))


if __name__ == "__main__":
    main()
