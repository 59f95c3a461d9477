"""Nipype interface that puts a segmentation into a derivative data set."""

from pathlib import Path
from typing import Any

from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from .base import StepInterface, VersionedInputSpec

__all__ = ["DerivativesDataSink"]


class _DerivativesDataSinkInputSpec(VersionedInputSpec):
    tree = Directory(exists=True, mandatory=True, desc="staged BIDS derivative, of Segment")
    base_directory = Directory(mandatory=True, desc="root of the derivative data set")


class _DerivativesDataSinkOutputSpec(TraitedSpec):
    out_files = traits.List(File(exists=True), desc="every file of the tree at its place")


class DerivativesDataSink(StepInterface):
    """Copy what Segment staged into a derivative data set, under its BIDS names.

    It always runs: a file that somebody deleted comes back; equal files stay untouched.

    Examples
    --------
    >>> from l2s_pydra.interfaces import DerivativesDataSink
    >>> DerivativesDataSink(base_directory="derivatives/l2s_pydra").always_run
    True
    """

    input_spec = _DerivativesDataSinkInputSpec
    output_spec = _DerivativesDataSinkOutputSpec
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        from ..steps.publishing import publish_tree

        files = publish_tree(Path(self.inputs.tree), Path(self.inputs.base_directory).absolute())
        self._results["out_files"] = [str(path) for path in files]
        return runtime
