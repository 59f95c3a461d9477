"""The tasks of :mod:`l2s_pydra.tasks`, where Pydra's own convention looks for them.

``pydra`` and ``pydra.tasks`` are namespaces without a file of their own (PEP 420), to which each
distribution adds a package.
"""

from l2s_pydra.tasks import *  # noqa: F403  (the names are those of the module)
from l2s_pydra.tasks import __all__ as _names

__all__ = list(_names)
