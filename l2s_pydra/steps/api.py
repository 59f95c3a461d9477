"""Segment from Python: a path, a nibabel image or an array goes in, an image of labels comes out.

Labels and posteriors are those that the step (:mod:`l2s_pydra.steps.segment`) writes, volumes are its
soft ones; here nothing is written.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import nibabel as nb
import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, ImageError
from ..images.headers import is_placed
from ..images.saving import save_labels, save_probabilities
from ..images.volume import Volume, load_image, voxel_volume_mm3
from ..models import packaged_model, packaged_models
from .device import computing_on
from .posterior import Prediction, predict

if TYPE_CHECKING:
    from ..segmentation import Model

__all__ = ["LoadedModel", "Segmentation", "load_model"]

_ASSUMED = (
    "neither qform nor sform is set; took the affine of the image as it is in memory: make sure that "
    "left and right are as they should be"
)
_SCANNER = 1
"""Code of NIfTI for coordinates of the scanner."""


@attrs.frozen(kw_only=True, eq=False)
class Segmentation:
    """What :meth:`LoadedModel.segment` found."""

    labels: Any
    """nibabel image of labels, on the grid of the image; values as in :attr:`names`."""
    names: Mapping[int, str]
    """Name of each value."""
    volumes_mm3: Mapping[str, float]
    """Volume of each structure, mm3: the sum of its posterior, not the number of its voxels."""
    posteriors: Any = None
    """nibabel image, 4-D, one volume a label in the order of :attr:`names`; on request only."""
    warnings: tuple[str, ...] = ()
    """What is odd about the image, and what went otherwise than asked for."""


@attrs.frozen(kw_only=True, eq=False)
class LoadedModel:
    """A model that segments images."""

    model: "Model"
    """Network, labels, settings."""
    path: Path
    """Its folder."""

    def segment(
        self,
        image: Any,
        *,
        affine: npt.ArrayLike | None = None,
        device: str = "auto",
        threads: int | None = None,
        flip: bool = True,
        draws: int = 1,
        memory_mb: float | None = None,
        posteriors: bool = False,
    ) -> Segmentation:
        """Segment an image on its own grid.

        Parameters
        ----------
        image : path, nibabel image or (X, Y, Z) array
            Any contrast, orientation and voxel size. Of an image the ``affine`` counts, of a file
            the header: where that has neither qform nor sform, nibabel makes up an affine whose
            first axis points left, while the NIfTI standard, and so a path, has it point right.
        affine : (4, 4) array, optional
            Voxels of an array to RAS+ mm; for an array only, which needs it.
        device : str, default="auto"
            ``cpu``, ``cuda``, ``cuda:1`` and the like; ``auto`` is the first GPU if there is one.
        threads : int, optional
            CPU threads of PyTorch; by default PyTorch's own choice.
        flip : bool, default=True
            Average with the segmentation of the left-right mirror image.
        draws : int, default=1
            Average over so many draws of small changes of the image.
        memory_mb : float, optional
            Memory that the network may take, 1e6 bytes.
        posteriors : bool, default=False
            Whether to return the posterior of each label, too.

        Returns
        -------
        Segmentation

        Raises
        ------
        ImageError
            If the image cannot be read or used, or has no affine.
        ModelError
            If the weights give no numbers.
        ConfigError
            If the device is not there, or another parameter is out of range.
        """
        volume = _volume(image, affine, allow_2d=self.model.learn_config.segmenter.ndim == 2)
        with computing_on(device, threads) as chosen:
            found = predict(
                self.model,
                volume,
                chosen,
                weights=self.path,
                flip=flip,
                draws=draws,
                memory_mb=memory_mb,
            )
            channels = found.channels()
        scheme = self.model.scheme
        return Segmentation(
            labels=_labels(scheme.to_indices(channels), volume),
            names=dict(zip(scheme.indices, scheme.names, strict=True)),
            volumes_mm3=dict(list(zip(scheme.names, _volumes(found), strict=True))[1:]),
            posteriors=_probabilities(found, volume) if posteriors else None,
            warnings=(*volume.warnings, *found.warnings),
        )


def load_model(path: str | Path) -> LoadedModel:
    """Load a model folder.

    Parameters
    ----------
    path : str or Path
        The folder, ``models/model-<name>`` in the output of a training; or the name of a model that
        comes with the package (:func:`l2s_pydra.models.packaged_models`), whose checksums are
        verified. A folder that has the same name is given as ``./<name>``.

    Returns
    -------
    LoadedModel

    Raises
    ------
    ModelError
        If a file is missing or broken.
    """
    from ..segmentation import Model

    path = packaged_model(str(path)) if str(path) in packaged_models() else Path(path)
    return LoadedModel(model=Model.load(path), path=path)


def _volume(image: Any, affine: npt.ArrayLike | None, *, allow_2d: bool) -> Volume:
    if isinstance(image, str | os.PathLike):
        if affine is not None:
            raise ConfigError("an affine is given with an array only; the file has its own")
        return load_image(Path(image), allow_2d=allow_2d)
    if isinstance(image, nb.spatialimages.SpatialImage):
        if affine is not None:
            raise ConfigError("an affine is given with an array only; the image has its own")
        return _from_memory(image, allow_2d)
    if affine is None:
        raise ImageError("an array says nothing of its place; give its affine, voxels to RAS+ mm")
    place = np.asarray(affine, dtype=np.float64)
    if place.shape != (4, 4):
        raise ImageError(f"an affine of shape {place.shape} came with the array; give a 4 x 4 one")
    try:
        data = np.asarray(image, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ImageError(
            f"a {type(image).__name__} is no image ({error}); give a path, a nibabel image or an "
            "array of numbers"
        ) from error
    array: Any = nb.Nifti1Image(data, place)  # type: ignore[no-untyped-call]
    return _from_memory(array, allow_2d)


def _from_memory(image: Any, allow_2d: bool) -> Volume:
    """Pass an image through a file, so that it is read and checked as files are."""
    nifti = isinstance(image.header, nb.Nifti1Header)
    kind: Any = type(image) if nifti and isinstance(image, nb.Nifti1Image) else nb.Nifti1Image
    try:
        data = np.asanyarray(image.dataobj).astype(np.float32)
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"the image cannot be read ({error}); load it again") from error
    copy = kind(data, image.affine, image.header if nifti else None)
    copy.set_data_dtype(np.float32)
    header = copy.header.copy()
    assumed = image.affine is not None and not is_placed(header)
    if assumed:
        # Whoever holds the image goes by its affine, which nibabel made up, and not by the standard
        copy.set_sform(image.affine, code=_SCANNER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nii"
        copy.to_filename(path)
        try:
            volume = load_image(path, allow_2d=allow_2d)
        except ImageError as error:
            raise type(error)(str(error).replace(f"{path}: ", "the image: ")) from error
    volume = attrs.evolve(volume, path=Path("the image"))
    if not assumed:
        return volume
    return attrs.evolve(volume, header=header, warnings=(*volume.warnings, _ASSUMED))


def _labels(values: npt.NDArray[np.int32], volume: Volume) -> Any:
    return _as_image(lambda path: save_labels(path, values, volume))


def _probabilities(found: Prediction, volume: Volume) -> Any:
    count = len(found.values)
    return _as_image(lambda path: save_probabilities(path, found.frames(), count, volume))


def _as_image(save: Any) -> Any:
    """Return what a function saves, as an image in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nii"
        save(path)
        image: Any = nb.load(path)
        return type(image).from_bytes(path.read_bytes())


def _volumes(found: Prediction) -> list[float]:
    sums = found.posterior.sums().numpy() * voxel_volume_mm3(found.conform.affine)
    return [float(value) for value in sums]
