"""What several trainings that differ by their seed alone say together of the learned values."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

__all__ = ["over_seeds"]

_FEWEST = 4
_LEVEL = 0.05


def over_seeds(thetas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise learned values over seeds, and find those that trade off between trainings.

    The spread over seeds is the plainest measure of what the data determine. Two values trade off
    where their correlation over seeds has a p value below 0.05 divided by the number of pairs
    (Student's t, Bonferroni). Below four seeds every correlation is large, and none is judged.

    Parameters
    ----------
    thetas : sequence of mappings
        Contents of ``theta.json`` of models with the same settings and other seeds; the ``average``
        is used, and only values that all of them have.

    Returns
    -------
    dict
        ``n_seeds``; ``values``, each with ``name``, ``start``, ``mean``, ``sd`` (None for one seed),
        ``low``, ``high`` and ``values``; ``pairs`` that trade off, each with ``names``,
        ``correlation`` and ``p``, the strongest first; ``judged``, whether there were seeds enough.

    Examples
    --------
    >>> found = over_seeds([{"average": {"sigma": 0.1}}, {"average": {"sigma": 0.2}}])
    >>> round(found["values"][0]["mean"], 3), round(found["values"][0]["sd"], 3), found["judged"]
    (0.15, 0.071, False)
    """
    known = [dict(theta.get("average") or {}) for theta in thetas]
    known = [values for values in known if values]
    names = [
        name
        for name in (known[0] if known else {})
        if all(values.get(name) is not None for values in known)
    ]
    table = np.array([[float(values[name]) for name in names] for values in known])
    start: Mapping[str, Any] = next((t["start"] for t in thetas if t.get("start")), {})
    values = [
        {
            "name": name,
            "start": start.get(name),
            "mean": float(column.mean()),
            "sd": float(column.std(ddof=1)) if len(column) > 1 else None,
            "low": float(column.min()),
            "high": float(column.max()),
            "values": column.tolist(),
        }
        for name, column in zip(names, table.T, strict=True)
    ]
    judged = len(known) >= _FEWEST
    pairs = _pairs(values) if judged else []
    return {"n_seeds": len(known), "values": values, "pairs": pairs, "judged": judged}


def _pairs(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Correlate all pairs of values that differ between seeds; keep those beyond chance."""
    from scipy.stats import pearsonr

    varying = [value for value in values if value["sd"] > 1e-9 * max(1.0, abs(value["mean"]))]
    pairs = list(combinations(varying, 2))
    found = []
    for one, two in pairs:
        correlation, p = pearsonr(one["values"], two["values"])
        if p < _LEVEL / len(pairs):
            names = [one["name"], two["name"]]
            found.append({"names": names, "correlation": float(correlation), "p": float(p)})
    return sorted(found, key=lambda pair: -abs(pair["correlation"]))
