"""Nipype interface that says how good a model is on labelled images."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from .base import LEARN2SYNTH, SYNTHSEG, DeviceInputSpec, StepInterface

__all__ = ["Assess"]


class _AssessInputSpec(DeviceInputSpec):
    images = traits.List(File(exists=True), mandatory=True, desc="images")
    references = traits.List(
        File(exists=True), mandatory=True, desc="reference labels on the grid of each image"
    )
    names = traits.List(traits.Str, mandatory=True, desc="unique name of each, for the table")
    participants = traits.List(traits.Str, mandatory=True, desc="participant of each image")
    contrasts = traits.List(traits.Str, mandatory=True, desc="contrast of each image")
    roles = traits.List(traits.Str, mandatory=True, desc="what each was for, such as test")
    weights = File(exists=True, mandatory=True, desc="weights.safetensors of the model")
    config = File(exists=True, mandatory=True, desc="config.json of the model")
    labels = File(exists=True, mandatory=True, desc="labels.tsv of the model")
    reference_table = File(exists=True, mandatory=True, desc="BIDS dseg.tsv of the references")
    label_mapping = File(
        exists=True, desc="index and mapping: labels of the references to those of the model"
    )


class _AssessOutputSpec(TraitedSpec):
    table = File(
        exists=True, desc="one row per image and structure: overlap, distance, calibration"
    )
    failures = File(exists=True, desc="images that could not be assessed, and why")


class Assess(StepInterface):
    """Segment labelled images with a model and compare with their labels.

    Examples
    --------
    >>> from l2s_pydra.interfaces import Assess
    >>> Assess(names=["sub-01_T1w"], use_gpu=True).inputs.names
    ['sub-01_T1w']
    """

    input_spec = _AssessInputSpec
    output_spec = _AssessOutputSpec
    _references = [LEARN2SYNTH, SYNTHSEG]  # noqa: RUF012 (Nipype's attribute)

    def _run_interface(self, runtime: Any) -> Any:
        from ..steps.assess import assess, failures_file

        table = assess(
            images=[Path(image) for image in self.inputs.images],
            references=[Path(reference) for reference in self.inputs.references],
            names=list(self.inputs.names),
            participants=list(self.inputs.participants),
            contrasts=list(self.inputs.contrasts),
            roles=list(self.inputs.roles),
            weights=Path(self.inputs.weights),
            config=Path(self.inputs.config),
            labels=Path(self.inputs.labels),
            reference_table=Path(self.inputs.reference_table),
            label_mapping=self._path("label_mapping"),
            out_file=Path(runtime.cwd) / "images.tsv",
            **self._resources(),
        )
        self._results["table"] = str(table)
        self._results["failures"] = str(failures_file(table))
        return runtime
