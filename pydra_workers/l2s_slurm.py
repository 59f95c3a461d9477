"""Lets Pydra find the worker by its name: ``Submitter(worker="l2s-slurm")``."""

from l2s_pydra.workflows.slurm import L2SSlurmWorker as Worker

__all__ = ["Worker"]
