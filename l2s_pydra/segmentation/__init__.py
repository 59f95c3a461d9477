"""The segmenter S_phi: network, losses, metrics, inference, model folders."""
