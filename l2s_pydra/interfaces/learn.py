"""Nipype interfaces that train a model: in any mode, and the two halves of the method."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from .base import LEARN2SYNTH, SYNTHSEG, DeviceInputSpec, StepInterface

__all__ = ["Learn", "LearnSynthesis", "TrainSegmenter"]


class _LearnInputSpec(DeviceInputSpec):
    images = traits.List(File(exists=True), mandatory=True, desc="real images")
    labels = traits.List(
        File(exists=True), mandatory=True, desc="manual labels on the grid of each image"
    )
    participants = traits.List(traits.Str, mandatory=True, desc="participant of each image")
    roles = traits.List(
        traits.Enum("learn", "validate", "test"), mandatory=True, desc="what each image is for"
    )
    label_maps = traits.List(
        File(exists=True), usedefault=True, desc="label maps that synthetic images are made from"
    )
    config = traits.Dict(
        mandatory=True, desc="settings, as l2s_pydra.config.LearnConfig.to_dict gives them"
    )
    real_table = File(exists=True, mandatory=True, desc="BIDS dseg.tsv of the labels")
    maps_table = File(exists=True, desc="BIDS dseg.tsv of the label maps, if another one")
    label_mapping = File(
        exists=True, desc="index and mapping: labels of the label maps to those of the labels"
    )
    validation_maps = traits.List(
        File(exists=True),
        usedefault=True,
        desc="without images: label maps whose synthetic images choose the weights",
    )
    start_from = File(
        exists=True, desc="weights.safetensors of the model that the training starts from"
    )
    segmentation = traits.Str(
        "learned", usedefault=True, desc="seg- entity of what the model will write"
    )
    processes = traits.Range(
        low=1, value=1, usedefault=True, nohash=True, desc="processes that share every batch"
    )
    checkpoint_dir = Directory(
        nohash=True, desc="folder from which an interrupted training run goes on"
    )
    cache_dir = Directory(
        nohash=True, desc="folder that keeps data on the training grid for further trainings"
    )


class _LearnOutputSpec(TraitedSpec):
    model = Directory(exists=True, desc="model folder")
    weights = File(exists=True, desc="weights.safetensors in it")
    config = File(exists=True, desc="config.json in it")
    labels = File(exists=True, desc="labels.tsv in it")


class Learn(StepInterface):
    """Train a segmentation model.

    Examples
    --------
    >>> from l2s_pydra.interfaces import Learn
    >>> learn = Learn(segmentation="aseg", use_gpu=True)
    >>> learn.inputs.code_version == learn.version
    True
    """

    input_spec = _LearnInputSpec
    output_spec = _LearnOutputSpec
    _references = [LEARN2SYNTH, SYNTHSEG]  # noqa: RUF012 (Nipype's attribute)

    def _run_interface(self, runtime: Any) -> Any:
        start = self._path("start_from")
        model = self._train(
            images=[Path(image) for image in self.inputs.images],
            labels=[Path(label) for label in self.inputs.labels],
            participants=list(self.inputs.participants),
            roles=list(self.inputs.roles),
            label_maps=[Path(label_map) for label_map in self.inputs.label_maps],
            real_table=Path(self.inputs.real_table),
            maps_table=self._path("maps_table"),
            label_mapping=self._path("label_mapping"),
            validation_maps=[Path(label_map) for label_map in self.inputs.validation_maps],
            start_from=start.parent if start else None,
            config=dict(self.inputs.config),
            segmentation=self.inputs.segmentation,
            out_dir=Path(runtime.cwd),
            checkpoint_dir=self._path("checkpoint_dir"),
            cache_dir=self._path("cache_dir"),
            processes=self.inputs.processes,
            **self._resources(),
        )
        self._results["model"] = str(model)
        self._results["weights"] = str(model / "weights.safetensors")
        self._results["config"] = str(model / "config.json")
        self._results["labels"] = str(model / "labels.tsv")
        return runtime

    def _train(self, **arguments: Any) -> Path:
        from ..steps.learn import learn

        return learn(**arguments)


class _LearnSynthesisOutputSpec(_LearnOutputSpec):
    generator = File(exists=True, desc="generator.json in it: learned values and fixed ranges")
    theta = File(exists=True, desc="theta.json in it: the learned values")
    priors = File(exists=True, desc="priors.json in it: intensities of the learning images")


class LearnSynthesis(Learn):
    """Learn how synthetic images shall look, together with a segmenter.

    Examples
    --------
    >>> from l2s_pydra.interfaces import LearnSynthesis
    >>> LearnSynthesis(roles=["learn", "validate"]).inputs.roles
    ['learn', 'validate']
    """

    output_spec = _LearnSynthesisOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        super()._run_interface(runtime)
        for name in ("generator", "theta", "priors"):
            self._results[name] = str(Path(self._results["model"]) / f"{name}.json")
        return runtime

    def _train(self, **arguments: Any) -> Path:
        from ..steps.train import learn_synthesis

        return learn_synthesis(**arguments)


class _TrainSegmenterInputSpec(_LearnInputSpec):
    mode = traits.Enum(
        "synthseg",
        "mixed",
        "mixed-randomised",
        "finetuned",
        "finetuned-averaged",
        usedefault=True,
        desc="whether the segmenter sees the labelled images too; the mode in config does not count",
    )
    generator = File(
        exists=True, xor=["theta"], desc="generator.json: the synthesis that was learned"
    )
    theta = File(
        exists=True, xor=["generator"], desc="theta.json: values for the augmentation in config"
    )
    priors = File(exists=True, desc="priors.json: intensities measured in labelled images")


class TrainSegmenter(Learn):
    """Train a segmenter with a synthesis that stays as it is.

    Examples
    --------
    >>> from l2s_pydra.interfaces import TrainSegmenter
    >>> TrainSegmenter().inputs.mode
    'synthseg'
    """

    input_spec = _TrainSegmenterInputSpec

    def _train(self, **arguments: Any) -> Path:
        from ..steps.train import train_segmenter

        given: dict[str, Any] = {
            name: self._path(name) for name in ("generator", "theta", "priors")
        }
        return train_segmenter(mode=self.inputs.mode, **given, **arguments)
