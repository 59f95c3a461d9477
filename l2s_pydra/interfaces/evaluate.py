"""Nipype interface that compares segmentations with references."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from .base import StepInterface, VersionedInputSpec

__all__ = ["Evaluate"]


class _EvaluateInputSpec(VersionedInputSpec):
    dsegs = traits.List(File(exists=True), mandatory=True, desc="segmentations")
    names = traits.List(traits.Str, mandatory=True, desc="unique name of each, for the table")
    references = traits.List(
        File(exists=True), mandatory=True, desc="reference labels of each, on the same grid"
    )
    reference_table = File(exists=True, mandatory=True, desc="BIDS dseg.tsv of the references")
    model_labels = File(exists=True, mandatory=True, desc="BIDS dseg.tsv of the segmentations")
    label_mapping = File(
        exists=True, desc="index and mapping: labels of the references to those of the dsegs"
    )


class _EvaluateOutputSpec(TraitedSpec):
    table = File(exists=True, desc="one row per image and label: Dice overlap and both volumes")


class Evaluate(StepInterface):
    """Compare segmentations with reference labels.

    Examples
    --------
    >>> from l2s_pydra.interfaces import Evaluate
    >>> Evaluate(names=["sub-01_T1w"]).inputs.names
    ['sub-01_T1w']
    """

    input_spec = _EvaluateInputSpec
    output_spec = _EvaluateOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from ..steps.evaluate import evaluate

        table = evaluate(
            dsegs=[Path(dseg) for dseg in self.inputs.dsegs],
            names=list(self.inputs.names),
            references=[Path(reference) for reference in self.inputs.references],
            reference_table=Path(self.inputs.reference_table),
            model_labels=Path(self.inputs.model_labels),
            label_mapping=self._path("label_mapping"),
            out_file=Path(runtime.cwd) / "dice.tsv",
        )
        self._results["table"] = str(table)
        return runtime
