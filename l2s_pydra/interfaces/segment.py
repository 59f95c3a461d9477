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
    entropy = traits.Bool(False, usedefault=True, desc="write the posteriors' entropy too")
    save_mask = traits.Bool(True, usedefault=True, desc="write a mask of all structures too")
    res = traits.Str(desc="voxel size of the model's grid, '1mm': write outputs on it too")
    keep_largest = traits.List(
        traits.Str,
        desc="keep the largest piece only of these structures ('all', or none for all that do not "
        "rightly come in parts)",
    )
    flip = traits.Bool(True, usedefault=True, desc="average with the mirror image")
    test_time_draws = traits.Range(
        low=1, value=1, usedefault=True, desc="average over so many small changes of the image"
    )
    model_in_dataset = traits.Bool(
        True, usedefault=True, desc="whether the model lies in the data set's folder models"
    )
    max_memory_mb = traits.Float(nohash=True, desc="memory that the network may take, MB")


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
            entropy=self.inputs.entropy,
            save_mask=self.inputs.save_mask,
            res=self._given("res"),
            keep_largest=self._given("keep_largest"),
            flip=self.inputs.flip,
            test_time_draws=self.inputs.test_time_draws,
            max_memory_mb=self._given("max_memory_mb"),
            model_in_dataset=self.inputs.model_in_dataset,
            **self._resources(),
        )
        # The summary is for the report and not for the derivative: out of the staged tree.
        summary = result.summary.rename(Path(runtime.cwd) / "summary.json")
        dseg = next(path for path in result.files if path.name.endswith("_dseg.nii.gz"))
        (morph,) = (path for path in result.files if path.name.endswith("_morph.tsv"))
        self._results["tree"] = str(result.tree)
        self._results["dseg"] = str(dseg)
        self._results["morph"] = str(morph)
        self._results["summary"] = str(summary)
        return runtime
