"""Nipype interface that draws synthetic images."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from .base import LEARN2SYNTH, SYNTHSEG, DeviceInputSpec, StepInterface

__all__ = ["SynthesizeImages"]


class _SynthesizeImagesInputSpec(DeviceInputSpec):
    label_maps = traits.List(
        File(exists=True), mandatory=True, minlen=1, desc="label maps; they take turns"
    )
    maps_table = File(exists=True, mandatory=True, desc="BIDS dseg.tsv of the label maps")
    count = traits.Range(low=1, value=10, usedefault=True, desc="how many images")
    seed = traits.Range(
        low=0, value=0, usedefault=True, desc="seed of the first; that of image i is seed + i"
    )
    config = traits.Dict(
        usedefault=True, desc="settings, as l2s_pydra.config.LearnConfig.to_dict gives them"
    )
    generator = File(
        exists=True, xor=["theta"], desc="generator.json: the synthesis that was learned"
    )
    theta = File(
        exists=True, xor=["generator"], desc="theta.json: values for the augmentation in config"
    )
    priors = File(exists=True, desc="priors.json: intensities measured in labelled images")
    target_table = File(
        exists=True, desc="BIDS dseg.tsv of the labels to write, if not that of the label maps"
    )
    label_mapping = File(
        exists=True, desc="index and mapping: labels of the label maps to those to write"
    )
    learned_share = traits.Range(
        low=0.0, high=1.0, desc="share of images drawn from learned values, where there are any"
    )
    skull_stripped = traits.Bool(desc="whether tissue far from the structures is left out")
    prefix = traits.Str("synth", usedefault=True, desc="begins the names of the files")


class _SynthesizeImagesOutputSpec(TraitedSpec):
    images = traits.List(File(exists=True), desc="the images")
    labels = traits.List(File(exists=True), desc="labels on the grid of each image")
    draws = traits.List(File(exists=True), desc="record of everything random of each image")
    table = File(exists=True, desc="dseg.tsv of the labels")


class SynthesizeImages(StepInterface):
    """Draw synthetic images from label maps, as a training would.

    Examples
    --------
    >>> from l2s_pydra.interfaces import SynthesizeImages
    >>> SynthesizeImages(count=3).inputs.seed
    0
    """

    input_spec = _SynthesizeImagesInputSpec
    output_spec = _SynthesizeImagesOutputSpec
    _references = [LEARN2SYNTH, SYNTHSEG]  # noqa: RUF012 (Nipype's attribute)

    def _run_interface(self, runtime: Any) -> Any:
        from ..steps.synthesize import synthesize

        files = ("generator", "theta", "priors", "target_table", "label_mapping")
        given: dict[str, Any] = {name: self._path(name) for name in files}
        made = synthesize(
            label_maps=[Path(label_map) for label_map in self.inputs.label_maps],
            maps_table=Path(self.inputs.maps_table),
            count=self.inputs.count,
            seed=self.inputs.seed,
            config=dict(self.inputs.config),
            **given,
            learned_share=self._given("learned_share"),
            skull_stripped=self._given("skull_stripped"),
            prefix=self.inputs.prefix,
            out_dir=Path(runtime.cwd) / "images",
            **self._resources(),
        )
        for name in ("images", "labels", "draws"):
            self._results[name] = [str(path) for path in getattr(made, name)]
        self._results["table"] = str(made.table)
        return runtime
