"""Model folders, as the orchestration sees them: files, not networks."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.bids.uses import model_facts
from l2s_pydra.errors import ModelError
from l2s_pydra.jsonfiles import read_json
from l2s_pydra.models import packaged_model, packaged_models
from l2s_pydra.values import check_names

__all__ = ["ModelFiles", "find_model"]

_log = logging.getLogger(__name__)
_FILES = ("weights.safetensors", "config.json", "labels.tsv")


@attrs.frozen
class ModelFiles:
    """A model folder whose files are there and whose configuration can be read."""

    folder: Path
    """The folder."""
    config: dict[str, Any] = attrs.field(repr=False, hash=False)
    """Contents of ``config.json``."""

    @classmethod
    def read(cls, folder: Path) -> "ModelFiles":
        """Read the configuration of a model folder.

        Raises
        ------
        ModelError
            If a file is missing or the configuration cannot be read.
        """
        for name in _FILES:
            if not (folder / name).is_file():
                raise ModelError(
                    f"{folder}: is no model folder, {name} is missing; "
                    "give a folder that the level learn wrote"
                )
        try:
            config = read_json(folder / "config.json")
            if not isinstance(config, dict) or {"name", "segmentation"} - set(config):
                raise ValueError("no name and segmentation in it")
            check_names(config)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{folder / 'config.json'}: cannot be read ({error}); copy the model again"
            ) from error
        return cls(folder, config)

    @property
    def weights(self) -> Path:
        """The weights."""
        return self.folder / "weights.safetensors"

    @property
    def config_file(self) -> Path:
        """The configuration."""
        return self.folder / "config.json"

    @property
    def labels(self) -> Path:
        """The label table."""
        return self.folder / "labels.tsv"

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self.config["name"])

    @property
    def segmentation(self) -> str:
        """Value of the ``seg-`` entity of what the model writes."""
        return str(self.config["segmentation"])

    @property
    def spacing_mm(self) -> float:
        """Voxel size of the grid that the model works on."""
        return float(self.config["learn"]["spacing_mm"])

    def is_in(self, output_dir: Path) -> bool:
        """Whether the folder is one of a derivative's ``models``, so that URIs can point into it."""
        place = output_dir / "models" / f"model-{self.name}"
        return place.is_dir() and self.folder.resolve() == place.resolve()

    @property
    def description(self) -> dict[str, Any]:
        """What is known of the model, as :mod:`l2s_pydra.bids` wants it."""
        return model_facts(self.folder, hashlib.sha256(self.weights.read_bytes()).hexdigest())


def find_model(wanted: str | None, output_dir: Path, *, option: str = "--model") -> ModelFiles:
    """Find the model to segment with.

    Parameters
    ----------
    wanted : str or None
        Folder of a model, name of one in ``output_dir``, or of one that comes with the package
        (:func:`l2s_pydra.models.packaged_models`); a folder that has such a name is given as
        ``./<name>``. ``None`` takes the only one in ``output_dir``, or, if there is none,
        ``default`` of the package, if that has one.
    output_dir : Path
        Root of the derivative.
    option : str, default="--model"
        Who asks, for messages.

    Raises
    ------
    ModelError
        If there is no such model, or the choice is not clear.
    """
    models = output_dir / "models"
    present = sorted(path.name for path in models.glob("model-*") if path.is_dir())
    if wanted is not None:
        return _named(wanted, models, present, option)
    if len(present) > 1:
        raise ModelError(
            f"{models}: has several models ({', '.join(present)}); choose one by {option}"
        )
    if present:
        return ModelFiles.read(models / present[0])
    if "default" in packaged_models():
        model = ModelFiles.read(packaged_model())
        _log.info("nothing was learned here: taking %s, the model of the package", model.name)
        return model
    raise ModelError(f"{models}: has no model; run the level learn first, or give one by {option}")


def _named(wanted: str, models: Path, present: Sequence[str], option: str) -> ModelFiles:
    if wanted in packaged_models():
        return ModelFiles.read(packaged_model(wanted))
    named = models / f"model-{wanted.removeprefix('model-')}"
    folder = Path(wanted).expanduser()
    if not folder.is_dir() and not named.is_dir():
        there = [*present, *packaged_models()]
        raise ModelError(
            f"{option} {wanted}: no such folder, and no such model in {models} "
            f"(there: {', '.join(there) or 'none'})"
        )
    return ModelFiles.read((folder if folder.is_dir() else named).resolve())
