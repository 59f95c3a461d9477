"""Recovery of a preset noise level, beside the published table (Hu et al., ICCV 2025, section 4.1).

Real images are simulated: they carry noise of a preset sigma, and the images that are trained on
carry noise of a learned one, which starts far away. Label maps are real, images are 2-D and coarse
(6 mm, 32 x 40 pixels), the segmenter is small. A preset range is learned twice: by one sigma, as in
the paper, and by the augmentation whose range is learned.

    python benchmarks/paper_sigma.py [LABEL_MAPS_DIR] [--quick] [--seeds 5] [--json FILE]
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

import _recovery
import _table
import attrs
import torch

from l2s_pydra.augmentation import Augmentation
from l2s_pydra.augmentation.noise import Noise
from l2s_pydra.augmentation.noise_range import NoiseRange

START, RANGE_START = 0.25, (0.1, 0.4)
RANGE = (0.025, 0.2)
TOLERANCE = 0.015
"""Of a single run with a preset sigma."""


@attrs.frozen
class Case:
    """A preset and what is learned from its images."""

    name: str
    published: str
    """Mean of five runs in the paper."""
    presets: Mapping[str, float | None]
    """Preset of each learned value, where there is one."""
    preset: Callable[[], Augmentation]
    learned: Callable[[], Augmentation]


def noise_of(sigma: float) -> Noise:
    """Noise of a preset sigma, which may be 0."""
    noise = Noise()
    with torch.no_grad():
        noise.sigma_raw.copy_(torch.logit(torch.tensor(sigma)))
    return noise


def single(sigma: float, published: str) -> Case:
    """One sigma, learned by one."""
    return Case(
        f"σ {sigma:g}", published, {"sigma": sigma}, lambda: noise_of(sigma), lambda: Noise(START)
    )


CASES = (
    single(0.0, "-0.001"),
    single(0.05, "0.042"),
    single(0.10, "0.0976"),
    single(0.15, "0.146"),
    Case(
        "σ ~ U(0.025, 0.2), learned as one σ",
        "0.134",
        {"sigma": None},
        lambda: NoiseRange(*RANGE),
        lambda: Noise(START),
    ),
    Case(
        "σ ~ U(0.025, 0.2), learned as a range",
        "none",
        dict(zip(("sigma_min", "sigma_max"), RANGE, strict=True)),
        lambda: NoiseRange(*RANGE),
        lambda: NoiseRange(*RANGE_START),
    ),
)


def run(
    case: Case, anatomy: _recovery.Anatomy, recipe: _recovery.Recipe, seed: int, device: str
) -> list[_table.Row]:
    """Rows of one run."""
    found = _recovery.learn(
        anatomy, case.preset(), case.learned(), recipe, seed=seed, device=device
    )
    name = f"{case.name}, seed {seed}"
    rows = [_table.row(name, "cpu_time", found.cpu_time, "s", name, found.cpu_time)]
    for value, mean in found.mean_of_last(recipe.averaged).items():
        rows.append(_table.row(name, value, mean, "", "preset", case.presets[value] or 0))
    return rows


def values_of(case: Case, rows: Sequence[_table.Row]) -> dict[str, list[float]]:
    """Each recovered value of a case, one a run."""
    mine = [r for r in rows if r["case"].startswith(f"{case.name}, seed ")]
    return {name: [r["value"] for r in mine if r["metric"] == name] for name in case.presets}


def summary(cases: Sequence[Case], rows: Sequence[_table.Row]) -> str:
    """One line for each preset value: ours beside the published mean, and every run."""
    lines = [
        "| images | value | preset | published mean | mean | median | all runs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        for name, found in values_of(case, rows).items():
            preset = "" if case.presets[name] is None else f"{case.presets[name]:g}"
            runs = ", ".join(f"{value:.4f}" for value in found)
            lines.append(
                f"| {case.name} | {name} | {preset} | {case.published} "
                f"| {statistics.fmean(found):.4f} | {statistics.median(found):.4f} | {runs} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    _recovery.main(__doc__ or "", CASES, run, summary, seeds=5)
