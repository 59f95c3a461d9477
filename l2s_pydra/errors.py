"""Errors raised by l2s_pydra.

Each message is one line that names the file (if there is one) and the remedy.

.. code-block:: text

    L2SError
    ├── ImageError (ValueError)         an image that cannot be read or used
    │   └── GridMismatchError           image and labels lie on different grids
    ├── LabelError (ValueError)         label values, tables, mappings
    ├── DatasetError (ValueError)       the data set lacks what was asked for
    │   └── NoImageError                no image matches the filters
    ├── ConfigError (ValueError)        a setting that cannot be honoured
    ├── ShapeError (ValueError)         tensors whose shapes do not fit
    ├── ModelError (ValueError)         a model folder that is broken or does not fit
    ├── TrainingError (RuntimeError)    training that cannot go on
    ├── OutputError (OSError)           a file or folder that cannot be written
    ├── InUseError (RuntimeError)       something that another run is using
    └── JobError (RuntimeError)         a process or batch job that was ended from outside
"""

__all__ = [
    "ConfigError",
    "DatasetError",
    "GridMismatchError",
    "ImageError",
    "InUseError",
    "JobError",
    "L2SError",
    "LabelError",
    "ModelError",
    "NoImageError",
    "OutputError",
    "ShapeError",
    "TrainingError",
]


class L2SError(Exception):
    """Base of every error that l2s_pydra raises on purpose."""


class ImageError(L2SError, ValueError):
    """An image that cannot be read or used."""


class GridMismatchError(ImageError):
    """Image and labels lie on different grids."""


class LabelError(L2SError, ValueError):
    """A label value, table or mapping that does not fit."""


class DatasetError(L2SError, ValueError):
    """A data set that lacks what was asked for."""


class NoImageError(DatasetError):
    """No image matches the filters."""


class ConfigError(L2SError, ValueError):
    """A setting that cannot be honoured."""


class ShapeError(L2SError, ValueError):
    """Tensors whose shapes do not fit together."""


class ModelError(L2SError, ValueError):
    """A model folder that is broken or does not fit its configuration."""


class TrainingError(L2SError, RuntimeError):
    """Training that cannot go on."""


class OutputError(L2SError, OSError):
    """A file or folder that cannot be written."""


class InUseError(L2SError, RuntimeError):
    """Something that another run is using, and that may be free later."""


class JobError(L2SError, RuntimeError):
    """A process or a batch job that was ended from outside, or could not start."""
