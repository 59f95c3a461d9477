"""Lets Pydra find the worker by its name: ``Submitter(worker="l2s-sge")``."""

from l2s_pydra.workflows.sge import L2SSgeWorker as Worker

__all__ = ["Worker"]
