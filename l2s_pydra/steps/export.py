"""Export a model's network to ONNX, and say in JSON what goes before and after it.

    python -m l2s_pydra.steps.export MODEL_DIR OUT_DIR

The network is captured by ``torch.export``, without TorchScript. What the software does around it, from
the image to labels on its grid, is written out with its numbers, so that whoever runs the network
elsewhere can do the same; ``tests/steps/test_export.py`` does so with NumPy and onnxruntime.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import ConfigError, L2SError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from ..segmentation import Model, Segmenter

__all__ = ["FORMAT_VERSION", "describe", "export_onnx", "main"]

FORMAT_VERSION = "1.0"
"""Of the JSON; the first number changes if an entry goes or means another thing."""
_OPSET = 18
_NEEDED = ("onnx", "onnxscript")


def export_onnx(model_dir: str | Path, out_dir: str | Path) -> tuple[Path, Path]:
    """Write ``<name>.onnx`` and ``<name>.json``.

    Parameters
    ----------
    model_dir : str or Path
        Folder of the model.
    out_dir : str or Path
        Where the files go; made if it is not there.

    Returns
    -------
    Path, Path
        The network: normalised images (N, 1, S) to posteriors (N, K, S), any N, sides S that are
        multiples of a number. And its description.

    Raises
    ------
    ModelError
        If the model is broken, or cannot be captured.
    ConfigError
        If onnx or onnxscript is not installed, or ``out_dir`` cannot be written.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not installed, which an export to ONNX needs; "
            "run: pip install 'l2s_pydra[onnx]'"
        )
    from ..segmentation import Model

    model = Model.load(model_dir)
    folder = Path(out_dir)
    network, description = folder / f"{model.name}.onnx", folder / f"{model.name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
            file = Path(temporary) / network.name
            _write(model.segmenter, file, Path(model_dir))
            checksum = hashlib.sha256(file.read_bytes()).hexdigest()
            text = json.dumps(describe(model, network.name, checksum), indent=2) + "\n"
            (Path(temporary) / description.name).write_text(text, encoding="utf-8")
            for path in (network, description):
                (Path(temporary) / path.name).replace(path)
    except OSError as error:
        raise ConfigError(
            f"{out_dir}: cannot be written ({error.strerror or error}); "
            "check permissions and free space"
        ) from error
    return network, description


def describe(model: "Model", file: str, sha256: str) -> dict[str, Any]:
    """Say what goes before and after the network, and with which numbers.

    Parameters
    ----------
    model : Model
        The model.
    file, sha256 : str
        Name and checksum of the ONNX file.

    Returns
    -------
    dict
        Plain values, for JSON.
    """
    scheme, ndim = model.scheme, model.learn_config.segmenter.ndim
    axes = ["right", "anterior", "superior"][:ndim]
    opposite = list(scheme.opposite) if scheme.mirrors else None
    return {
        "format": "l2s_pydra segmenter",
        "format_version": FORMAT_VERSION,
        "software": f"l2s_pydra {__version__}",
        "model": {
            "name": model.name,
            "version": str(model.config.get("version", "n/a")),
            "weights_sha256": model.sha256,
            "segmentation": str(model.config["segmentation"]),
            "skull_stripped": model.config.get("skull_stripped"),
        },
        "network": {"file": file, "sha256": sha256, "opset": _OPSET},
        "input": {
            "name": "image",
            "type": "float32",
            "axes": ["batch", "channel", *axes],
            "channels": 1,
            "sides_are_multiples_of": model.segmenter.multiple,
        },
        "output": {
            "name": "posteriors",
            "type": "float32",
            "axes": ["batch", "label", *axes],
            "labels": [
                {"channel": channel, "index": label.index, "name": label.name}
                for channel, label in enumerate(scheme.labels)
            ],
        },
        "preprocessing": _before(model),
        "postprocessing": _after(ndim, opposite),
    }


def _before(model: "Model") -> list[dict[str, Any]]:
    from ..config import REPEAT_SHARE
    from ..images import coverage
    from ..segmentation.inference import BLACK, MARGIN
    from .posterior import slab_limits

    limits = slab_limits(model)
    repeat: dict[str, Any] = {
        "step": "repeat",
        "what": "Draw out scans of few slices. The range of an image is from the 0.5th percentile of all "
        "voxels to the 99th of those brighter than the mean; voxels above the share 'shown' of it "
        "show something. Along each axis, what is shown reaches from the first to the last slice "
        "with at least the share 'full' of the voxels of the fullest slice. If along the shortest "
        "axis that is at most the thickness and the share of it along the longest: on each side "
        "where there is no next slice, or one with at most the share 'empty', drop what is beyond, "
        "and repeat the outermost slice over the distance or the share of the longest axis, "
        "whatever is less, in whole slices, rounded up. Slices at such a face that are dimmer, in "
        "the mean over what they show, than the share 'dim' of the median slice, or, if slices are "
        "at most 'near_mm' apart, than the share 'dim_beside' of the next one inwards, are replaced as "
        "well, if they are no deeper than 'fading_mm' or one. What is beyond is background in the "
        "result. A slab that is turned in its grid is resampled along itself before.",
        "shown": coverage.SHOWN,
        "full": coverage.FULL,
        "empty": coverage.EMPTY,
        "dim": coverage.DIM,
        "dim_beside": coverage.DIM_BESIDE,
        "near_mm": coverage.NEAR_MM,
        "fading_mm": coverage.FADING_MM,
        "thickness_share": coverage.THIN_SHARE,
        "distance_share": REPEAT_SHARE,
        **(
            {"thickness_mm": limits["thin_mm"], "distance_mm": limits["repeat_mm"]}
            if limits
            else {}
        ),
    }
    steps: list[dict[str, Any]] = [
        *([repeat] if limits and limits["repeat_mm"] else []),
        {
            "step": "resample",
            "what": "Bring the image, minus its least value, to an isotropic grid whose axes point "
            "right, anterior and superior and which covers its field of view, by linear "
            "interpolation; 0 beyond the field of view. Along axes that become coarser by a factor "
            "r, smooth first by a Gaussian of variance (r^2 - 1) / (8 ln 2) voxels^2.",
            "orientation": "RAS",
            "spacing_mm": model.spacing_mm,
        },
        {
            "step": "normalise",
            "what": "Subtract the low percentile of all voxels, divide by its distance to the high "
            "percentile of the voxels that are brighter than the mean, clip. Of images with more "
            "voxels than stated, percentiles come from that many of them, spread evenly.",
            "low_percentile": 0.5,
            "high_percentile": 99.0,
            "clip": [0.0, 2.0],
            "voxels": 2**17,
        },
        {
            "step": "crop",
            "what": "Cut out the box of the voxels above the threshold, with a margin on each side "
            "as far as the grid goes; what is outside is background.",
            "threshold": BLACK,
            "margin": MARGIN,
        },
    ]
    if model.segmenter.config.ndim == 2:
        steps.append(
            {
                "step": "slices",
                "what": "Take the slices along the last axis one by one; normalise each as above, "
                "but where that makes its largest value more than the greatest gain times as "
                "large, multiply by that gain instead.",
                "greatest_gain": 2.0,
            }
        )
    steps.append(
        {
            "step": "pad",
            "what": "Append zeros along each axis up to a multiple of the number.",
            "multiple": model.segmenter.multiple,
        }
    )
    return steps


def _after(ndim: int, opposite: list[int] | None) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"step": "unpad", "what": "Cut off what was appended."}]
    if opposite is not None:
        steps.append(
            {
                "step": "mirror",
                "what": "Run the network on the cropped image reversed along the axis, too; reverse "
                "its posteriors and give each channel those of its opposite; take the mean of both.",
                "axis": "right",
                "opposite": opposite,
            }
        )
    return [
        *steps,
        {
            "step": "uncrop",
            "what": "Outside the box, the posterior of channel 0 is 1 and the others are 0.",
        },
        {
            "step": "resample",
            "what": "Interpolate the posterior of each channel linearly at the voxels of the image.",
        },
        {
            "step": "label",
            "what": "In each voxel of the image, the channel with the largest posterior, the first of "
            "equals; then the index of its label.",
        },
    ]


def _write(segmenter: "Segmenter", path: Path, model_dir: Path) -> None:
    """Capture the network and save it."""
    import torch
    from torch.export import Dim

    class Posteriors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.segmenter = segmenter

        def forward(self, image: "Tensor") -> "Tensor":
            logits: Tensor = self.segmenter(image)
            return logits.softmax(1)

    ndim, multiple = segmenter.config.ndim, segmenter.multiple
    # Sides that differ, so that none is taken for another; two images, so that there may be any.
    image = torch.zeros(2, 1, *(multiple * (2 + axis) for axis in range(ndim)))
    sides = {2 + axis: multiple * Dim(f"blocks_{axis}", min=1) for axis in range(ndim)}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        # What other packages do not have installed is of no interest here.
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                Posteriors().eval(),
                (image,),
                dynamo=True,
                opset_version=_OPSET,
                input_names=["image"],
                output_names=["posteriors"],
                dynamic_shapes=({0: Dim("batch", min=1), **sides},),
                verbose=False,
            )
            _forget_where(program.model)
            program.save(path, external_data=False)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{model_dir}: its network cannot be exported ({reason}); try another version of PyTorch"
        ) from error
    finally:
        logger.setLevel(level)


def _forget_where(model: Any) -> None:
    """Remove what names the files of this computer."""
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program; those of the process by default.

    Returns
    -------
    int
        Exit code: 0, or 64 if it cannot be done.
    """
    parser = argparse.ArgumentParser(
        prog="python -m l2s_pydra.steps.export",
        description="Export a model's network to ONNX, with a JSON of what goes before and after it.",
    )
    parser.add_argument("model_dir", help="folder of the model")
    parser.add_argument("out_dir", help="folder for the two files")
    options = parser.parse_args(argv)
    try:
        for path in export_onnx(options.model_dir, options.out_dir):
            sys.stdout.write(f"{path}{os.linesep}")
    except L2SError as error:
        sys.stderr.write(f"{error}\n")
        return 64
    return 0


if __name__ == "__main__":
    sys.exit(main())
