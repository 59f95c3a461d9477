"""Lets Pydra find the worker by its name: ``Submitter(worker="l2s")``."""

from l2s_pydra.workflows.worker import L2SWorker as Worker

__all__ = ["Worker"]
