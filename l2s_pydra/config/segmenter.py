"""Settings of the network."""

import attrs
from attrs import validators

from ..values import count

__all__ = ["SegmenterConfig"]


@attrs.frozen(kw_only=True)
class SegmenterConfig:
    """The segmenter S_phi: a U-Net (Ronneberger et al., 2015)."""

    ndim: int = attrs.field(default=3, validator=validators.in_((2, 3)))
    """2 or 3."""
    width: int = attrs.field(default=16, validator=[count, validators.le(4096)])
    """Channels of the first level; doubled at each level."""
    depth: int = attrs.field(default=4, validator=[count, validators.le(10)])
    """Number of levels."""
    max_width: int = attrs.field(default=384, validator=[count, validators.le(65536)])
    """Channels never exceed this."""
    convolutions: int = attrs.field(default=2, validator=[count, validators.le(16)])
    """Convolutions per level on each side."""
    activation: str = attrs.field(default="elu", validator=validators.in_(("elu", "gelu", "relu")))
    """Nonlinearity (the paper: ELU)."""
    norm: str = attrs.field(default="none", validator=validators.in_(("none", "instance", "group")))
    """Normalisation (the paper: none)."""
    pooling: str = attrs.field(default="average", validator=validators.in_(("average", "max")))
    """Between levels; maxima have kinks that the difference estimators do not see through."""
    coordinates: bool = False
    """Append centred voxel coordinates to the input."""
    subvoxel: int = attrs.field(default=1, validator=validators.in_((1, 2, 3, 4)))
    """Blocks of this many voxels per axis are folded into channels before the U-Net and unfolded
    after it: the network works on a coarser grid and still segments every voxel."""
