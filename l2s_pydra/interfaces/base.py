"""What the interfaces share."""

from pathlib import Path
from typing import Any

from nipype.external.due import BibTeX
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, isdefined, traits

from .. import __version__

LEARN2SYNTH: dict[str, Any] = {
    "entry": BibTeX(
        "@inproceedings{hu2025learn2synth,"
        "author={Hu, Xiaoling and Zeng, Xiangrui and Puonti, Oula and Iglesias, Juan Eugenio and "
        'Fischl, Bruce and Balbastre, Ya{\\"e}l},'
        "title={Learn2Synth: Learning Optimal Data Synthesis Using Hypergradients for Brain Image "
        "Segmentation},"
        "booktitle={IEEE/CVF International Conference on Computer Vision (ICCV)},"
        "year={2025}}"
    ),
    "description": "The method: synthesis learned with hypergradients",
    "tags": ["method"],
}
SYNTHSEG: dict[str, Any] = {
    "entry": BibTeX(
        "@article{billot2023synthseg,"
        "author={Billot, Benjamin and others},"
        "title={SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without "
        "retraining},"
        "journal={Medical Image Analysis},"
        "year={2023}}"
    ),
    "description": "The generator of synthetic images",
    "tags": ["method"],
}


class VersionedInputSpec(BaseInterfaceInputSpec):
    """Inputs of every interface."""

    code_version = traits.Str(
        __version__, usedefault=True, desc="software version; another one computes anew"
    )


class DeviceInputSpec(VersionedInputSpec):
    """Inputs of an interface that runs a network."""

    use_gpu = traits.Bool(
        False, usedefault=True, nohash=True, desc="ask Nipype's scheduler for a GPU and use it"
    )
    device = traits.Str(
        nohash=True,
        desc="'auto', 'cpu', 'cuda' or 'cuda:n'; follows from use_gpu unless given",
    )
    threads = traits.Range(low=1, nohash=True, desc="CPU threads of PyTorch")


class StepInterface(SimpleInterface):
    """Interface to a step."""

    resource_monitor = True

    @property
    def version(self) -> str:
        """Version of the software."""
        return __version__

    def _given(self, name: str) -> Any:
        """Value of an input; ``None`` if it is not defined."""
        value = getattr(self.inputs, name)
        return value if isdefined(value) else None

    def _path(self, name: str) -> Path | None:
        """Value of an input that is a file or folder; ``None`` if it is not defined."""
        value = self._given(name)
        return Path(value) if value else None

    def _resources(self) -> dict[str, Any]:
        """``device`` and ``threads`` as the steps take them."""
        device = self._given("device") or ("cuda" if self.inputs.use_gpu else "cpu")
        return {"device": device, "threads": self._given("threads")}
