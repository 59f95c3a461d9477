"""``python -m l2s_pydra`` is the command ``l2s-pydra``."""

import sys

from .workflows.cli import main  # type: ignore[import-not-found]

if __name__ == "__main__":
    sys.exit(main())
