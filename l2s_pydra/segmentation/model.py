"""A trained model as a folder: weights, configuration, labels. No pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import LearnConfig
from ..errors import L2SError, ModelError
from ..jsonfiles import read_json
from ..labels import LabelScheme
from ..values import check_names
from .inference import predict
from .posterior import Posterior
from .segmenter import Segmenter
from .weights import read_weights

__all__ = ["Model"]

_REQUIRED = ("learn", "name", "segmentation")


@attrs.frozen(kw_only=True, eq=False)
class Model:
    """A segmenter with everything needed to use it."""

    segmenter: Segmenter
    """The network, weights loaded."""
    scheme: LabelScheme
    """Label of each channel."""
    config: Mapping[str, Any]
    """``learn`` (the :class:`LearnConfig` as a dict), ``segmentation``, ``name``, ``version``,
    ``theta``, ``best_dice``, ``skull_stripped``."""
    sha256: str = ""
    """Checksum of the weights file."""

    @property
    def learn_config(self) -> LearnConfig:
        """Settings the model was trained with."""
        return LearnConfig.from_dict(self.config["learn"])

    @property
    def spacing_mm(self) -> float:
        """Voxel size of the working grid, mm."""
        return self.learn_config.spacing_mm

    @property
    def name(self) -> str:
        """Name of the model, unique to its weights."""
        return str(self.config["name"])

    def save(self, folder: str | Path) -> str:
        """Write ``weights.safetensors``, ``config.json`` and ``labels.tsv``; return the checksum."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.detach().cpu().contiguous() for k, v in self.segmenter.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        text = json.dumps(dict(self.config), indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        self.scheme.write(folder / "labels.tsv")
        return _sha256(folder / "weights.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> "Model":
        """Load a model folder.

        Raises
        ------
        ModelError
            If a file is missing or broken, or the weights do not fit the configuration.
        """
        folder = Path(folder)
        return cls.load_files(
            folder / "weights.safetensors", folder / "config.json", folder / "labels.tsv"
        )

    @classmethod
    def load_files(cls, weights: str | Path, config: str | Path, labels: str | Path) -> "Model":
        """Load a model from its three files; see :meth:`load`."""
        for path in (weights, config, labels):
            if not Path(path).is_file():
                raise ModelError(
                    f"{path}: missing; a model folder holds weights.safetensors, config.json "
                    "and labels.tsv: copy it whole, or learn the model again"
                )
        try:
            values = read_json(config)
            missing = [key for key in _REQUIRED if key not in values]
            if missing:
                raise ModelError(f"lacks {missing[0]!r}")
            check_names(values)
            learn = LearnConfig.from_dict(values["learn"])
            scheme = LabelScheme.read(labels)
        except (L2SError, ValueError, KeyError, TypeError, OSError) as error:
            raise ModelError(
                f"{config}: does not describe a model ({error}); learn the model again"
            ) from error
        with torch.device("meta"):  # shapes, without the memory
            shapes = {
                name: tuple(value.shape)
                for name, value in Segmenter(learn.segmenter, len(scheme)).state_dict().items()
            }
        try:
            state = read_weights(weights, shapes)
        except (ValueError, OSError) as error:
            raise ModelError(
                f"{weights}: the weights do not fit {config} and {labels} ({error}); "
                "the files are of different models or damaged: copy the folder again"
            ) from error
        segmenter = Segmenter(learn.segmenter, len(scheme))
        segmenter.load_state_dict(state)
        return cls(segmenter=segmenter, scheme=scheme, config=values, sha256=_sha256(weights))

    def predict(
        self,
        image: Tensor,
        *,
        device: torch.device | str = "cpu",
        flip: bool = True,
        draws: int = 1,
        seed: int = 0,
        tiles: str | int | None = "auto",
        memory_mb: float | None = None,
    ) -> Posterior:
        """Posterior of each label in the part of the working grid that is not black.

        The image is taken as it is; :func:`l2s_pydra.steps.posterior.predict`, behind everything that
        segments files, also draws out scans of few slices.

        Parameters
        ----------
        image : (X, Y, Z) float tensor
            Intensities on the working grid (:attr:`spacing_mm`, RAS); normalised here.
        device : torch.device or str
            Where to compute; where its memory does not suffice, tiles become smaller, and at last
            the CPU takes over.
        flip : bool, default=True
            Average with the prediction on the left-right mirror image (not where a label of one
            side has no counterpart).
        draws, seed, tiles, memory_mb
            See :func:`l2s_pydra.segmentation.inference.predict`.

        Returns
        -------
        Posterior
            With warnings for the log.

        Raises
        ------
        ShapeError
            If the image is not 3-D.
        ConfigError
            If a parameter is out of range.
        """
        return predict(
            self.segmenter,
            image,
            opposite=self.scheme.opposite if flip and self.scheme.mirrors else None,
            device=device,
            precision=self.learn_config.training.precision,
            draws=draws,
            seed=seed,
            tiles=tiles,
            memory_mb=memory_mb,
        )

    def posteriors(
        self, image: Tensor, *, device: torch.device | str = "cpu", flip: bool = True
    ) -> Tensor:
        """Posterior of each label on the working grid.

        Parameters
        ----------
        image : (X, Y, Z) float tensor
            Intensities on the working grid (:attr:`spacing_mm`, RAS); normalised here.
        device : torch.device or str
            Where to compute.
        flip : bool, default=True
            Average with the prediction on the left-right mirror image (not where a label of one
            side has no counterpart).

        Returns
        -------
        (K, X, Y, Z) float32 tensor on the CPU
        """
        return self.predict(image, device=device, flip=flip).whole()


def _sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
