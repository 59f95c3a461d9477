"""Small BIDS data sets that ship with the software.

``phantom``
    Nested ellipsoids on a 32 x 32 x 32 grid, for tests; written by
    :mod:`l2s_pydra.bids_examples.make_phantom`.
``icbm``
    Heads with the contrast of the ICBM 152 templates, for a first try; written by
    :mod:`l2s_pydra.bids_examples.make_icbm`.

Both have the same layout: raw images, ``derivatives/reference`` (labels on the grid of each image)
and ``derivatives/labelmaps`` (label maps of other heads, to synthesise from).
"""

from pathlib import Path

from l2s_pydra.errors import ConfigError

__all__ = ["path"]

_NAMES = ("icbm", "phantom")


def path(name: str) -> Path:
    """Return the folder of an example data set.

    Parameters
    ----------
    name : {"icbm", "phantom"}
        Which one.

    Returns
    -------
    Path
        Root of a BIDS raw data set; treat it as read-only.

    Raises
    ------
    ConfigError
        If there is no data set of that name, or the installation lacks its files.

    Examples
    --------
    >>> path("phantom").name
    'phantom'
    """
    if name not in _NAMES:
        raise ConfigError(f"unknown example data set {name!r}; available: {', '.join(_NAMES)}")
    folder = Path(__file__).resolve().parent / name
    if not (folder / "dataset_description.json").is_file():
        raise ConfigError(
            f"{folder}: the example data set {name!r} is not in this installation; "
            "reinstall l2s_pydra"
        )
    return folder
