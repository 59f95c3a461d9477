"""The files that a run writes for an image."""

from l2s_pydra.bids.dataset import ImageRecord
from l2s_pydra.bids.derivatives import derivative_path
from l2s_pydra.steps.outputs import IMAGE_OUTPUTS, on_network_grid

from .options import Options

__all__ = ["image_files"]

_LABELS = ("dseg", "dseg_json", "dseg_tsv")
_MASK = ("mask", "mask_json")
_REPORTED = ("morph", "morph_json", "figure")


def image_files(
    options: Options, segmentation: str, image: ImageRecord, spacing_mm: float
) -> tuple[str, ...]:
    """List the files of an image, below the output folder.

    Parameters
    ----------
    options : Options
        What was asked for.
    segmentation : str
        Value of the ``seg-`` entity.
    image : ImageRecord
        The image.
    spacing_mm : float
        Voxel size of the model's grid.
    """
    asked = [*(("probseg", "probseg_json") if options.probseg else ())]
    asked += [*(("entropy", "entropy_json") if options.entropy else ())]
    volumes = [*_LABELS, *(() if options.seg_only else _MASK), *asked]
    rows = [IMAGE_OUTPUTS[key] for key in volumes]
    rows += [] if options.seg_only else [IMAGE_OUTPUTS[key] for key in _REPORTED]
    if options.res is not None:
        rows += [on_network_grid(IMAGE_OUTPUTS[key], spacing_mm) for key in volumes]
    paths = (derivative_path(image.entities, row, segmentation=segmentation) for row in rows)
    return tuple(map(str, paths))
