"""Nipype interface that segments one image."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from .base import LEARN2SYNTH, DeviceInputSpec, StepInterface

__all__ = ["Segment"]


class _SegmentInputSpec(DeviceInputSpec):
    image = File(exists=True, mandatory=True, desc="image to segment")
    weights = File(exists=True, mandatory=True, desc="weights.safetensors of the model")
    config = File(exists=True, mandatory=True, desc="config.json of the model")
    labels = File(exists=True, mandatory=True, desc="labels.tsv of the model")
    entities = traits.Dict(
        traits.Str, traits.Str, mandatory=True, desc="BIDS entities of the image: name the outputs"
    )
    source = traits.Str(mandatory=True, desc="path of the image relative to its data set")
    probseg = traits.Bool(False, usedefault=True, desc="write every label's posterior too")
    save_mask = traits.Bool(True, usedefault=True, desc="write a mask of all structures too")


class _SegmentOutputSpec(TraitedSpec):
    tree = Directory(exists=True, desc="staged BIDS derivative, to be copied to its place")
    dseg = File(exists=True, desc="the segmentation in it")
    morph = File(exists=True, desc="the table of volumes in it")
    summary = File(exists=True, desc="what the participant's report needs, as JSON")


class Segment(StepInterface):
    """Segment one image.

    Examples
    --------
    >>> from l2s_pydra.interfaces import Segment
    >>> segment = Segment(entities={"subject": "01", "suffix": "T1w"})
    >>> segment.inputs.save_mask
    True
    """

    input_spec = _SegmentInputSpec
    output_spec = _SegmentOutputSpec
    _references = [LEARN2SYNTH]  # noqa: RUF012 (Nipype's attribute)

    def _run_interface(self, runtime: Any) -> Any:
        from ..steps.segment import segment

        result = segment(
            image=Path(self.inputs.image),
            weights=Path(self.inputs.weights),
            config=Path(self.inputs.config),
            labels=Path(self.inputs.labels),
            entities=dict(self.inputs.entities),
            source=self.inputs.source,
            out_dir=Path(runtime.cwd) / "tree",
            probseg=self.inputs.probseg,
            save_mask=self.inputs.save_mask,
            **self._resources(),
        )
        # The summary is for the report and not for the derivative: out of the staged tree.
        summary = result.summary.rename(Path(runtime.cwd) / "summary.json")
        (dseg,) = (path for path in result.files if path.name.endswith("_dseg.nii.gz"))
        (morph,) = (path for path in result.files if path.name.endswith("_morph.tsv"))
        self._results["tree"] = str(result.tree)
        self._results["dseg"] = str(dseg)
        self._results["morph"] = str(morph)
        self._results["summary"] = str(summary)
        return runtime
