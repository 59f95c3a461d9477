"""Settings by name."""

from ..errors import ConfigError
from .learn import LearnConfig

__all__ = ["PRESETS", "preset"]

PRESETS = ("quick", "default", "paper")


def preset(name: str, *, ndim: int | None = None) -> LearnConfig:
    """Named settings.

    ``quick`` trains on a CPU in well under an hour; ``default`` is for one GPU or a patient CPU;
    ``paper`` has the settings of Hu et al. (ICCV 2025, section 4): 2-D, ELU U-Net without
    normalisation, Adam at both levels.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    ndim = ndim or (2 if name == "paper" else 3)
    config = LearnConfig().evolve(segmenter__ndim=ndim)
    if name == "default":
        return config.evolve(
            segmenter__width=24,
            segmenter__depth=5,
            synthesis__oversampling=1,  # label maps are seldom finer than 1 mm
            training__batch_size=1 if ndim == 3 else 16,
            training__real_batch_size=1 if ndim == 3 else 16,
        )
    if name == "quick":
        # A short training cannot take the full ranges in.
        return config.evolve(
            spacing_mm=2.5,
            synthesis__nonlinear_std_mm=4.0,
            synthesis__bias_std=0.6,
            synthesis__bias_spacing_mm=50.0,
            synthesis__gamma_std=0.4,
            synthesis__ghost_share=0.0,
            synthesis__motion_share=0.0,
            synthesis__resolution_share=0.5,
            synthesis__isotropic_share=0.0,
            synthesis__spacing_slices_mm=6.0,
            synthesis__rician_share=0.0,
            training__steps=4000,
            training__own_label_share=1.0,
            training__validate_every=250,
            training__checkpoint_every=250,
            training__batch_size=1 if ndim == 3 else 8,
            training__real_batch_size=1 if ndim == 3 else 8,
        )
    if name == "paper":
        return config.evolve(
            segmenter__ndim=ndim,
            segmenter__width=24,
            segmenter__depth=5,
            training__batch_size=64 if ndim == 2 else 1,
            training__real_batch_size=64 if ndim == 2 else 1,
            training__loss="dice",
            training__learning_rate=1e-4,
            training__schedule="constant",
            training__steps=60000,
            training__wide_share=0.0,
            training__precision="fp32",
            training__gradient_clip=None,
            training__beta2=0.999,
            training__estimator="exact",
            augmentation__name="noise_bias",
        )
    raise ConfigError(f"unknown preset {name!r}; available: {', '.join(PRESETS)}")
