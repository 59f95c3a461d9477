"""Synthetic scans of label maps that are held out: what a training without images is judged by."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from ..bilevel.batches import RealScan
    from ..synthesis import Synthesizer

__all__ = ["DRAWS", "synthetic_scans"]

DRAWS = 3
"""Images of each held-out label map."""
_FIRST_SEED = 20_250_000
"""They are the same whatever the seed of the training, so that trainings can be compared."""


def synthetic_scans(
    synthesizer: "Synthesizer", names: Sequence[str], *, draws: int = DRAWS
) -> "list[RealScan]":
    """Render each label map a few times, with seeds that are always the same.

    Parameters
    ----------
    synthesizer : Synthesizer
        Draws from the held-out label maps.
    names : sequence of str
        One for each label map.
    draws : int, default=3
        Images of each.

    Returns
    -------
    list of RealScan
        Whole images, on the working grid only; the target is the class that fills most of a voxel.
    """
    import torch

    from ..bilevel.batches import RealScan
    from ..targets import as_classes

    whole = attrs.evolve(synthesizer, config=attrs.evolve(synthesizer.config, crop=None))
    small = torch.uint8 if synthesizer.labels.n_channels < 256 else torch.int16
    scans = []
    for number, name in enumerate(names):
        for i in range(draws):
            draw = whole.draw(_FIRST_SEED + draws * number + i, label_map=number)
            sample = whole.render([draw])
            classes = as_classes(sample.target[0]).to(small)
            scans.append(
                RealScan(
                    name=f"{name} (synthetic, {i + 1})",
                    image=sample.image[0, 0],
                    target=classes,
                    fine_image=sample.image[0, 0],
                    fine_channels=classes,
                    voxel_mm=(synthesizer.spacing_mm,) * 3,
                )
            )
    return scans
