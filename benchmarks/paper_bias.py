"""Recovery of preset bias fields, beside the published values (Hu et al., ICCV 2025, section 4.1).

Real images are simulated: they are multiplied by smooth fields of 2, 4 and 8 control points per axis
with preset exponents, and carry noise. The exponents and the noise level are learned by the
augmentation ``noise_bias``, from two starts. Three exponents cannot be told one by one: what images
show is the field, so that its strength is reported beside them, as the spread of its logarithm over
the pixels of an image and as the mean of its logarithm (its brightness), and so is the correlation
between the exponents' hypergradients. Label maps are real, images are 2-D and coarse (6 mm,
32 x 40 pixels), the segmenter is small.

    python benchmarks/paper_bias.py [LABEL_MAPS_DIR] [--quick] [--seeds 3] [--json FILE]
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence

import _recovery
import _table
import attrs
import torch
from torch import Tensor

from l2s_pydra.augmentation.noise_bias import NoiseBias
from l2s_pydra.bilevel.identifiability import identifiability

PRESETS = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
PUBLISHED = {(1.0, 0.0, 0.0): (0.13, 0.19, 0.54)}
"""What the paper's code recovers."""
STARTS = ((0.5, 0.5, 0.5), (0.1, 0.1, 0.1))
SIGMA, START_SIGMA = 0.05, 0.15
NAMES = ("exponent_2", "exponent_4", "exponent_8")
FIELDS = 512
"""Drawn to measure the strength of a preset."""
Exponents = tuple[float, float, float]


def bias_of(exponents: Sequence[float], sigma: float = SIGMA) -> NoiseBias:
    """Bias and noise of preset values; exponents may be 0 and 1."""
    bias = NoiseBias(sigma)
    with torch.no_grad():
        bias.exponents_raw.copy_(torch.logit(torch.tensor(exponents)))
    return bias


class Flat(_recovery.Batch):
    """Images of ones, to which no noise is added."""

    def noise(self) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(self.image)


def strength(exponents: Sequence[float]) -> dict[str, float]:
    """Spread within an image, and mean, of the logarithm of the field."""
    image = torch.ones(FIELDS, 1, *_recovery.SHAPE[:2])
    with torch.no_grad():
        field = bias_of(exponents)(Flat(image, image[:, 0], tuple(range(FIELDS)))).log()
    spread = field.var((1, 2, 3), correction=0).mean().sqrt()
    return {"log_field_spread": float(spread), "log_field_mean": float(field.mean())}


@attrs.frozen
class Case:
    """Preset exponents, and where the learned ones start."""

    preset: Exponents
    start: Exponents

    @property
    def name(self) -> str:
        """For the table."""
        return f"{_three(self.preset)} from {_three(self.start)}"


def _three(exponents: Sequence[float]) -> str:
    return "(" + ", ".join(f"{c:.3g}" for c in exponents) + ")"


def run(
    case: Case, anatomy: _recovery.Anatomy, recipe: _recovery.Recipe, seed: int, device: str
) -> list[_table.Row]:
    """Rows of one run."""
    learned = NoiseBias(START_SIGMA, case.start)
    found = _recovery.learn(
        anatomy, bias_of(case.preset), learned, recipe, seed=seed, device=device
    )
    mean = found.mean_of_last(recipe.averaged)
    exponents = tuple(mean[name] for name in NAMES)
    values = {"sigma": mean["sigma"], **dict(zip(NAMES, exponents, strict=True))}
    values |= strength(exponents) | correlations(learned, found.trace)
    presets = {"sigma": SIGMA, **dict(zip(NAMES, case.preset, strict=True))}
    presets |= strength(case.preset)
    name = f"{case.name}, seed {seed}"
    return [
        _table.row(name, "cpu_time", found.cpu_time, "s", name, found.cpu_time),
        *(_table.row(name, k, v, "", "preset", presets.get(k, 0)) for k, v in values.items()),
    ]


def correlations(learned: NoiseBias, trace: Mapping[str, Tensor]) -> dict[str, float]:
    """Correlation of the hypergradients of each two exponents."""
    facts = identifiability(trace, theta=list(learned.parameters()), describe=learned.describe)
    names, matrix = facts["correlation"]["names"], facts["correlation"]["matrix"]
    return {
        f"correlation_{a[-1]}_{b[-1]}": matrix[names.index(a)][names.index(b)]
        for a, b in itertools.combinations(NAMES, 2)
    }


METRICS = (
    *NAMES,
    "log_field_spread",
    "log_field_mean",
    "sigma",
    "correlation_2_4",
    "correlation_2_8",
    "correlation_4_8",
)


def table(cases: Sequence[Case], rows: Sequence[_table.Row]) -> str:
    """Every run below its preset and what the paper found, and the median of the runs."""
    lines = [
        "| images | c₂ | c₄ | c₈ | spread of log field | mean of log field | σ | correlation c₂, c₄ | c₂, c₈ | c₄, c₈ |",
        "| --- |" + " --- |" * len(METRICS),
    ]
    for preset in dict.fromkeys(case.preset for case in cases):
        lines.append(_line(f"preset {_three(preset)}", _known(preset) | {"sigma": SIGMA}))
        if preset in PUBLISHED:
            lines.append(_line("published", _known(PUBLISHED[preset])))
        found: dict[str, dict[str, float]] = {}
        for r in rows:
            if r["case"].startswith(f"{_three(preset)} from "):
                found.setdefault(r["case"], {})[r["metric"]] = r["value"]
        lines += [_line(case, v) for case, v in found.items()]
        runs = list(found.values())
        lines.append(
            _line("**median**", {m: statistics.median(v[m] for v in runs) for m in METRICS})
        )
    return "\n".join(lines)


def _known(exponents: Sequence[float]) -> dict[str, float]:
    return dict(zip(NAMES, exponents, strict=True)) | strength(exponents)


def _line(title: str, values: Mapping[str, float]) -> str:
    cells = [f"{values[m]:.2f}" if m in values else "" for m in METRICS]
    for i, name in enumerate(METRICS):
        if name in values and name in ("log_field_spread", "log_field_mean", "sigma"):
            cells[i] = f"{values[name]:.3f}"
    return "| " + " | ".join([title, *cells]) + " |"


if __name__ == "__main__":
    cases = [Case(preset, start) for preset in PRESETS for start in STARTS]
    _recovery.main(__doc__ or "", cases, run, table, seeds=3)
