"""Nipype interface that measures the intensities of labelled images."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, TraitedSpec, traits

from .base import SYNTHSEG, StepInterface, VersionedInputSpec

__all__ = ["EstimatePriors"]


class _EstimatePriorsInputSpec(VersionedInputSpec):
    images = traits.List(File(exists=True), mandatory=True, desc="real images")
    labels = traits.List(
        File(exists=True), mandatory=True, desc="manual labels on the grid of each image"
    )
    real_table = File(exists=True, mandatory=True, desc="BIDS dseg.tsv of the labels")
    maps_table = File(
        exists=True, desc="BIDS dseg.tsv of the label maps that the priors are for, if another one"
    )
    label_mapping = File(
        exists=True, desc="index and mapping: labels of those label maps to those of the labels"
    )
    config = traits.Dict(
        usedefault=True,
        desc="settings, as l2s_pydra.config.LearnConfig.to_dict gives them; for the grid",
    )
    threads = traits.Range(low=1, nohash=True, desc="CPU threads of PyTorch")


class _EstimatePriorsOutputSpec(TraitedSpec):
    priors = File(exists=True, desc="priors.json: the setting synthesis.priors")
    table = File(exists=True, desc="priors.tsv: the same with what it rests on")
    columns = File(exists=True, desc="what the columns of the table mean")
    figure = File(exists=True, desc="interval of each group")


class EstimatePriors(StepInterface):
    """Measure labelled images, for priors of the generator's intensities.

    Examples
    --------
    >>> from l2s_pydra.interfaces import EstimatePriors
    >>> EstimatePriors(threads=2).inputs.threads
    2
    """

    input_spec = _EstimatePriorsInputSpec
    output_spec = _EstimatePriorsOutputSpec
    _references = [SYNTHSEG]  # noqa: RUF012 (Nipype's attribute)

    def _run_interface(self, runtime: Any) -> Any:
        from ..steps.priors import estimate_priors

        folder = estimate_priors(
            images=[Path(image) for image in self.inputs.images],
            labels=[Path(label) for label in self.inputs.labels],
            real_table=Path(self.inputs.real_table),
            maps_table=self._path("maps_table"),
            label_mapping=self._path("label_mapping"),
            config=dict(self.inputs.config),
            out_dir=Path(runtime.cwd) / "priors",
            threads=self._given("threads"),
        )
        for name, file in (
            ("priors", "priors.json"),
            ("table", "priors.tsv"),
            ("columns", "priors_columns.json"),
            ("figure", "priors.png"),
        ):
            self._results[name] = str(folder / file)
        return runtime
