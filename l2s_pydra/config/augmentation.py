"""Settings of the learned augmentation."""

from collections.abc import Mapping
from typing import Any

import attrs

from ..errors import ConfigError
from ..plugins import is_plugin, plugin_code
from ..values import theta_table

__all__ = ["AugmentationConfig"]


@attrs.frozen(kw_only=True)
class AugmentationConfig:
    """The learned augmentation A_theta, by name, with its starting values."""

    name: str = "contrast"
    """Module of :mod:`l2s_pydra.augmentation`, or of another package: ``mypackage.fog``."""
    options: Mapping[str, Any] = attrs.field(factory=dict, converter=dict)
    """Keyword arguments of its builder."""
    code: str | None = None
    """Name and checksum of a module of another package, filled in when settings are made."""

    theta: Mapping[str, float] | None = attrs.field(default=None, converter=theta_table)
    """Values of theta, by the names in ``theta.json``. Where theta is learned, it starts there and not
    at what the learning scans show; in all other modes with synthetic images it stays there, for a
    share ``1 - training.wide_share`` of these."""

    def __attrs_post_init__(self) -> None:
        code = self.code if is_plugin(self.name) else None
        if is_plugin(self.name) and not str(code).startswith(f"{self.name}@"):
            code = plugin_code(self.name, kind="augmentation")
        object.__setattr__(self, "code", code)

    def check_code(self) -> None:
        """Check that a module of another package is what it was when the settings were made.

        Raises
        ------
        ConfigError
            If it has changed since.
        """
        if self.code and plugin_code(self.name, kind="augmentation") != self.code:
            raise ConfigError(
                f"augmentation {self.name!r} is not what it was when these settings were made; "
                "bring that version back, or set augmentation.code to null"
            )
