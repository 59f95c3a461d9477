"""What the application says on the terminal."""

import logging
import sys

__all__ = ["set_up_logging"]

_LEVELS = (logging.INFO, logging.INFO, logging.DEBUG)
_NOISY = ("pydra", "pydra-pool", "asyncio", "nipype", "nibabel.global", "matplotlib", "bids-schema")


def set_up_logging(verbosity: int) -> None:
    """Send messages to standard error, ours from ``INFO`` on, those of others if they matter.

    Parameters
    ----------
    verbosity : int
        0, 1 (others' warnings too) or 2 (everything).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    for old in [old for old in root.handlers if getattr(old, "_l2s_pydra", False)]:
        root.removeHandler(old)
    handler._l2s_pydra = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbosity > 1 else logging.WARNING)
    logging.getLogger("l2s_pydra").setLevel(_LEVELS[min(verbosity, 2)])
    for name in _NOISY:
        # Pydra repeats the traceback of each failure at each level; the application says it once.
        quiet = logging.CRITICAL if verbosity == 0 else logging.WARNING
        logging.getLogger(name).setLevel(quiet if verbosity < 2 else logging.DEBUG)
