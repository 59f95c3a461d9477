"""The segmenter S_phi: network, losses, metrics, inference, model folders."""

from .inference import predict_posteriors
from .losses import build_loss
from .metrics import dice_scores
from .model import Model
from .posterior import Posterior
from .segmenter import Segmenter

__all__ = ["Model", "Posterior", "Segmenter", "build_loss", "dice_scores", "predict_posteriors"]
