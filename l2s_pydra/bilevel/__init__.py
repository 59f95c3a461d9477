"""The two-level optimisation of Learn2Synth."""

from .hypergradient import (
    BilevelStep,
    CentralDifference,
    Exact,
    Hypergradient,
    OneSidedDifference,
    PlainStep,
    plain_step,
)
from .self_check import Agreement, choose_estimator, compare
from .state import TrainingState
from .training import RealScan, Trainer, TrainingData
from .updates import UpdateRule, adam, adamw, sgd

__all__ = [
    "Agreement",
    "BilevelStep",
    "CentralDifference",
    "Exact",
    "Hypergradient",
    "OneSidedDifference",
    "PlainStep",
    "RealScan",
    "Trainer",
    "TrainingData",
    "TrainingState",
    "UpdateRule",
    "adam",
    "adamw",
    "choose_estimator",
    "compare",
    "plain_step",
    "sgd",
]
