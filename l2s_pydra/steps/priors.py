r"""Priors of the generator's intensities, from labelled images.

For each intensity group the generator may draw its mean and its standard deviation around those of
real images (:attr:`~l2s_pydra.config.SynthesisConfig.priors`), as Billot et al. did before they left
the ranges open (A Learning Strategy for Contrast-agnostic MRI Segmentation, MIDL 2020).

How much a group differs *between* images is known badly from few of them. The variance
:math:`s_g^2` over :math:`n_g` images, of :math:`d_g = n_g - 1` degrees of freedom, is therefore drawn
towards what groups have in common,

.. math:: \tilde s_g^2 = \frac{d_0 s_0^2 + d_g s_g^2}{d_0 + d_g},

which is its posterior mean if true variances follow a scaled inverse chi-squared distribution;
:math:`d_0` and :math:`s_0^2` are estimated from the :math:`\log s_g^2` of all groups by their mean and
variance (Smyth, Statistical Applications in Genetics and Molecular Biology 2004, sections 3 and 6.2).
The less groups differ from one another beyond chance, the larger is :math:`d_0`. Means and standard
deviations are treated apart. If no group was seen in two images, :math:`s_0` is a constant.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..config import LearnConfig
from ..errors import ConfigError
from .given import check_lists
from .moments import Moments
from .prepare import measure
from .schemes import read_schemes

__all__ = [
    "GroupPrior",
    "check_priors",
    "estimate_priors",
    "fit_priors",
    "shrunk_variances",
    "write_priors",
]

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

_TYPICAL_MEAN_STD, _TYPICAL_STD_STD = 0.05, 0.02
"""What the mean and the standard deviation of a group differ by between scans of one protocol."""
_SMALLEST_VARIANCE = 1e-8
"""Of normalised intensities; keeps logarithms finite."""
_FEWEST_VOXELS = 10
_COLUMNS = {
    "group": ("Intensity group: labels that share one Gaussian in synthesis", None),
    "n_images": ("Number of images in which the group was measured", None),
    "n_voxels": ("Number of voxels of the working grid, over all images", None),
    "mean": ("Mean over images of the group's mean intensity", "1"),
    "mean_std": (
        "Standard deviation over images of the group's mean intensity, drawn towards the common one",
        "1",
    ),
    "std": ("Mean over images of the standard deviation of the group's voxels", "1"),
    "std_std": (
        "Standard deviation over images of the standard deviation of the group's voxels, drawn "
        "towards the common one",
        "1",
    ),
    "mean_std_raw": ("mean_std as it was measured; n/a for a single image", "1"),
    "std_std_raw": ("std_std as it was measured; n/a for a single image", "1"),
}
_SCALE = "Intensities are normalised to about [0, 1], as the generator's images are"


@attrs.frozen(kw_only=True)
class GroupPrior:
    """How the intensities of one group are distributed over images."""

    group: str
    """Name of the group."""
    n_images: int
    """Images in which it was measured."""
    n_voxels: int
    """Working voxels, over all images."""
    mean: float
    """Mean over images of the group's mean."""
    mean_std: float
    """Its standard deviation over images, shrunk."""
    std: float
    """Mean over images of the standard deviation of the group's voxels."""
    std_std: float
    """Its standard deviation over images, shrunk."""
    mean_std_raw: float
    """``mean_std`` as it was measured; NaN for a single image."""
    std_std_raw: float
    """``std_std`` as it was measured; NaN for a single image."""

    @property
    def numbers(self) -> list[float]:
        """Entry of :attr:`~l2s_pydra.config.SynthesisConfig.priors`."""
        return [round(v, 6) for v in (self.mean, self.mean_std, self.std, self.std_std)]


def estimate_priors(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    real_table: Path,
    out_dir: Path,
    maps_table: Path | None = None,
    label_mapping: Path | None = None,
    config: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Path:
    """Measure labelled images and write the priors of their intensity groups.

    Parameters
    ----------
    images, labels : sequences of Path
        Real images and their labels on the same grid, in pairs.
    real_table : Path
        BIDS ``dseg.tsv`` of ``labels``.
    out_dir : Path
        Where the files go; made if need be.
    maps_table : Path, optional
        BIDS ``dseg.tsv`` of the label maps that the priors are for; ``real_table`` by default.
    label_mapping : Path, optional
        TSV with the columns ``index`` and ``mapping``, from those label maps to ``labels``.
    config : mapping, optional
        A :class:`~l2s_pydra.config.LearnConfig` as a dict; what it says of the grid is used.
    threads : int, optional
        CPU threads.

    Returns
    -------
    Path
        ``out_dir``, with ``priors.json``, ``priors.tsv``, ``priors_columns.json`` and ``priors.png``.

    Raises
    ------
    L2SError
        If a file, a table or a setting cannot be used.

    Examples
    --------
    Use them in a later run::

        l2s-pydra BIDS_DIR OUTPUT_DIR learn ... --set synthesis.priors=@priors.json
    """
    from ..reports.intervals import prior_intervals
    from .device import computing_on

    check_lists(len(images), labels=labels)
    settings = LearnConfig.from_dict(config or {})
    schemes = read_schemes(real_table, maps_table, label_mapping)
    with computing_on("cpu", threads):
        moments = measure(
            images=images,
            labels=labels,
            names=[Path(image).name.split(".")[0] for image in images],
            schemes=schemes,
            config=settings,
        )
    folder = write_priors(fit_priors(moments), Path(out_dir))
    prior_intervals(folder / "priors.tsv", folder / "priors.png")
    return folder


def fit_priors(moments: Mapping[str, Sequence[Moments]]) -> list[GroupPrior]:
    """Fit the prior of each group.

    Parameters
    ----------
    moments : mapping
        Group name to one entry for each image; images with too few voxels of a group do not count.

    Returns
    -------
    list of GroupPrior
        In the order of the groups; those with too few voxels in every image are left out.
    """
    enough = {name: [m for m in of if m.count >= _FEWEST_VOXELS] for name, of in moments.items()}
    groups = {name: of for name, of in enough.items() if of}
    if not groups:
        return []
    degrees = np.array([len(of) - 1 for of in groups.values()])
    means = [np.array([m.mean for m in of]) for of in groups.values()]
    stds = [np.array([m.std for m in of]) for of in groups.values()]
    raw = [np.array([_variance(v) for v in values]) for values in (means, stds)]
    shrunk = [
        np.sqrt(shrunk_variances(variances, degrees, typical=typical**2))
        for variances, typical in zip(raw, (_TYPICAL_MEAN_STD, _TYPICAL_STD_STD), strict=True)
    ]
    return [
        GroupPrior(
            group=name,
            n_images=len(of),
            n_voxels=sum(m.count for m in of),
            mean=float(means[i].mean()),
            mean_std=float(shrunk[0][i]),
            std=float(stds[i].mean()),
            std_std=float(shrunk[1][i]),
            mean_std_raw=math.sqrt(raw[0][i]),
            std_std_raw=math.sqrt(raw[1][i]),
        )
        for i, (name, of) in enumerate(groups.items())
    ]


def _variance(values: Array) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else math.nan


def shrunk_variances(variances: npt.ArrayLike, degrees: npt.ArrayLike, *, typical: float) -> Array:
    """Draw sample variances towards what they have in common; see the module's introduction.

    Parameters
    ----------
    variances : (G,) array
        Sample variances; ignored where there is no degree of freedom.
    degrees : (G,) array
        Degrees of freedom of each.
    typical : float
        The common variance, if there is no variance with a degree of freedom.

    Returns
    -------
    (G,) array
        Positive.

    Examples
    --------
    >>> shrunk_variances([0.04, np.nan], [3, 0], typical=1.0).tolist()
    [0.04, 0.04]
    """
    d = np.asarray(degrees, dtype=np.float64)
    s = np.maximum(np.nan_to_num(np.asarray(variances, dtype=np.float64)), _SMALLEST_VARIANCE)
    known = d > 0
    if not known.any():
        return np.full(len(d), float(typical))
    d0, s0 = _common(s[known], d[known])
    if math.isinf(d0):
        return np.full(len(d), s0)
    shrunk: Array = (d0 * s0 + np.where(known, d * s, 0)) / (d0 + d)
    return shrunk


def _common(variances: Array, degrees: Array) -> tuple[float, float]:
    r"""Degrees of freedom :math:`d_0` and variance :math:`s_0^2` that variances have in common."""
    from scipy.special import digamma, polygamma

    levels = np.log(variances) - digamma(degrees / 2) + np.log(degrees / 2)
    if len(levels) == 1:
        # Nothing to compare with: the variance stands for all.
        return math.inf, float(variances[0])
    beyond_chance = float(levels.var(ddof=1) - polygamma(1, degrees / 2).mean())
    if beyond_chance <= 0:
        return math.inf, float(np.exp(levels.mean()))
    half = _inverse_trigamma(beyond_chance)
    return 2 * half, float(np.exp(levels.mean() + digamma(half) - np.log(half)))


def _inverse_trigamma(value: float) -> float:
    """Solve ``polygamma(1, x) = value`` by Newton's method on its reciprocal, which is convex.

    >>> from scipy.special import polygamma
    >>> [round(_inverse_trigamma(float(polygamma(1, x))), 6) for x in (0.1, 1.0, 50.0)]
    [0.1, 1.0, 50.0]
    """
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def write_priors(priors: Sequence[GroupPrior], folder: Path) -> Path:
    """Write ``priors.json``, ``priors.tsv`` and ``priors_columns.json``.

    Parameters
    ----------
    priors : sequence of GroupPrior
        From :func:`fit_priors`.
    folder : Path
        Made if need be.

    Returns
    -------
    Path
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {prior.group: prior.numbers for prior in priors}
    described = {
        name: {"Description": f"{text}. {_SCALE}." if unit else f"{text}."}
        | ({"Units": unit} if unit else {})
        for name, (text, unit) in _COLUMNS.items()
    }
    rows = [[_cell(getattr(prior, name)) for name in _COLUMNS] for prior in priors]
    table = "".join("\t".join(row) + "\n" for row in [list(_COLUMNS), *rows])
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in values.items())
    (folder / "priors.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    (folder / "priors.tsv").write_text(table, encoding="utf-8")
    (folder / "priors_columns.json").write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    return folder


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def check_priors(priors: Mapping[str, Any], group_names: Sequence[str]) -> None:
    """Say which priors are for no group of the label maps.

    Raises
    ------
    ConfigError
        If none of them is for any.
    """
    unknown = [name for name in priors if name not in group_names[1:]]
    if not unknown:
        return
    known = ", ".join(group_names[1:])
    if len(unknown) == len(priors):
        raise ConfigError(
            f"synthesis.priors: {unknown[0]!r} and all others are of no intensity group; "
            f"available: {known}"
        )
    logger.warning(
        "priors of %s are not used, as there is no such intensity group (there are: %s)",
        ", ".join(map(repr, unknown)),
        known,
    )
