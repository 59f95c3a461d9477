"""The learned augmentation A_theta, one module a model."""
