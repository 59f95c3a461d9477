"""What the images of this generator look like in numbers, beside those of other projects.

Every generator makes images from the example data set's label maps at 2 mm, each label with an
intensity of its own, with the default settings of its project. Lengths that are given in voxels
(cornucopia) are halved, so that they are those of 1 mm; this project's fine grid is its working
grid, and it does not flip, so that one coordinate stands for the same place in all of them.

    pip install cornucopia torchio  # optional
    python benchmarks/synthesis_statistics.py [--images 40] [--figure FILE.png] [--json FILE]
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _generators as generators
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor

from l2s_pydra.normalisation import normalise

SHAPE, SPACING_MM = (80, 96, 80), 2.0
CLASSES = {"white matter": (3, 13), "grey matter": (2, 12), "CSF": (1,)}
LEAST_VOXELS = 100
"""Of a label whose volume is followed."""
BINS = 30
COLOURS = {generators.OURS: "#d55e00", "cornucopia": "#0072b2", "torchio": "#009e73"}
Numbers = dict[str, list[Any]]


def maker(engine: str, problem: generators.Problem) -> generators.Make:
    """Generator with fields."""
    if engine == generators.OURS:
        return generators.ours(problem, fields=True, flip=0.0)
    if engine == "cornucopia":
        lengths = {"resolution": 8, "gmm_fwhm": 10, "motion_fwhm": 3}
        scaled = {name: length / SPACING_MM for name, length in lengths.items()}
        return generators.cornucopia(problem, fields=True, **scaled)
    return generators.MAKERS[engine](problem, fields=True)


def collect(engine: str, problem: generators.Problem, images: int) -> Numbers:
    """Numbers of all images of a generator."""
    make, found = maker(engine, problem), Numbers()
    for number in range(images):
        made = make(number)
        before = problem.maps[number % len(problem.maps)]
        image = normalise(made.image.float()[None, None])[0, 0]
        labels = made.labels.long()
        assert made.source is not None
        one = _look(image, labels, problem) | _space(made.source.double(), labels > 0)
        one["volume change"] = _volumes(before.long(), labels, problem.count)
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return found


def _look(image: Tensor, labels: Tensor, problem: generators.Problem) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, values in CLASSES.items():
        # The two sides have intensities of their own.
        sides = [image[labels == problem.values.index(value)] for value in values]
        numbers[name] = np.mean([_histogram(side, 0, 1.5) for side in sides], 0)
        numbers[f"{name} spread"] = float(np.mean([side.std() for side in sides]))
    slopes = torch.stack([_slope(image, axis) for axis in range(3)])
    inner = _inner(labels > 0)
    steep = slopes.square().sum(0).sqrt()[inner] / SPACING_MM
    numbers["gradient"] = _histogram(steep.clamp_min(1e-5).log10(), -4, 0)
    numbers["median gradient"] = float(steep.median())
    return numbers


def _histogram(values: Tensor, low: float, high: float) -> np.ndarray[Any, Any]:
    """Share of the values in each bin; what is beyond is in the last ones."""
    count = torch.histc(values.float().clamp(low, high), BINS, low, high)
    return (count / max(1, values.numel())).numpy()


def _slope(x: Tensor, axis: int) -> Tensor:
    """Central difference per voxel; 0 at the ends."""
    n = x.shape[axis]
    middle = (x.narrow(axis, 2, n - 2) - x.narrow(axis, 0, n - 2)) / 2
    pad = [0, 0] * x.ndim
    pad[2 * (x.ndim - 1 - axis)] = pad[2 * (x.ndim - 1 - axis) + 1] = 1
    return F.pad(middle, pad)


def _inner(mask: Tensor) -> Tensor:
    """Voxels all of whose neighbours are in the mask."""
    outside = F.max_pool3d(F.pad(1 - mask.float(), [1] * 6, value=1)[None, None], 3, 1)
    return outside[0, 0] == 0


def _space(source: Tensor, head: Tensor) -> dict[str, Any]:
    """Displacement in mm, of which affine, and the Jacobian determinant, inside the head."""
    inner = _inner(head)
    grid = torch.stack(
        torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in head.shape], indexing="ij")
    )
    there, here = source[:, inner].T, grid[:, inner].T
    design = torch.cat([here, torch.ones(len(here), 1, dtype=here.dtype)], 1)
    affine = design @ torch.linalg.lstsq(design, there).solution
    bent = (there - affine).norm(dim=1) * SPACING_MM
    rows = [
        torch.stack([_slope(source[i], axis)[inner] for axis in range(3)], -1) for i in range(3)
    ]
    determinant = torch.linalg.det(torch.stack(rows, -2))
    low, middle, high = np.quantile(determinant.numpy(), [0.01, 0.5, 0.99])
    return {
        "affine": float((affine - here).norm(dim=1).mean() * SPACING_MM),
        "nonlinear mean": float(bent.mean()),
        "nonlinear max": float(bent.max()),
        "jacobian 1 %": float(low),
        "jacobian median": float(middle),
        "jacobian 99 %": float(high),
        "folded": float((determinant <= 0).double().mean()),
    }


def _volumes(before: Tensor, after: Tensor, count: int) -> list[float]:
    """Ratio of each label's volume to that before."""
    old, new = (torch.bincount(x.flatten(), minlength=count)[1:] for x in (before, after))
    kept = old >= LEAST_VOXELS
    return (new[kept] / old[kept]).tolist()  # type: ignore[no-any-return]


def summary(found: Mapping[str, Numbers]) -> dict[str, dict[str, float]]:
    """Medians over the images, and the share of folded voxels."""
    table = {}
    for engine, numbers in found.items():
        table[engine] = {
            name: float(np.mean(values) if name == "folded" else np.median(values))
            for name, values in numbers.items()
            if isinstance(values[0], float)
        }
        changes = np.concatenate(numbers["volume change"])
        for share in (5, 50, 95):
            table[engine][f"volume change {share} %"] = float(np.percentile(changes, share))
    return table


def draw(found: Mapping[str, Numbers], path: Path) -> None:
    """Save the panels."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(13, 6.2), layout="constrained")
    images = len(next(iter(found.values()))["affine"])
    for axis, name in zip(axes[0], CLASSES, strict=False):
        for engine, numbers in found.items():
            _curve(axis, np.mean(numbers[name], 0), (0, 1.5), engine)
        axis.set(title=name, xlabel="intensity after normalisation", xlim=(0, 1.25), ylim=(0, None))
    axes[0, 0].set_ylabel("density")
    axes[0, 0].legend(frameon=False, fontsize=8)
    spreads = [f"{name} spread" for name in CLASSES]
    _boxes(axes[0, 3], found, spreads, [name.replace(" ", "\n") for name in CLASSES])
    axes[0, 3].set(title="spread within a structure", ylabel="standard deviation", ylim=0)
    for engine, numbers in found.items():
        _curve(axes[1, 0], np.mean(numbers["gradient"], 0), (-4, 0), engine)
    axes[1, 0].set(
        title="gradient inside the head",
        xlabel="log10 of magnitude, 1/mm",
        ylabel="density",
        ylim=0,
    )
    parts = ["affine", "nonlinear mean", "nonlinear max"]
    _boxes(axes[1, 1], found, parts, ["affine,\nmean", "nonlinear,\nmean", "nonlinear,\nlargest"])
    axes[1, 1].set(title="displacement", ylabel="mm", ylim=0)
    parts = ["jacobian 1 %", "jacobian median", "jacobian 99 %"]
    _boxes(axes[1, 2], found, parts, ["1st", "50th", "99th"])
    axes[1, 2].axhline(0, color="0.6", linewidth=0.8)
    axes[1, 2].set(title="Jacobian determinant", xlabel="percentile of an image's voxels")
    for engine, numbers in found.items():
        changes = np.log2(np.concatenate(numbers["volume change"]).clip(0.25, 4))
        share, _ = np.histogram(changes, 32, (-2, 2))
        _curve(axes[1, 3], share / share.sum(), (-2, 2), engine)
    axes[1, 3].set(title="volume of a label, after over before", xlim=(-1.25, 1.25), ylim=0)
    axes[1, 3].set_xticks([-1, -0.5, 0, 0.5, 1], ["0.5", "0.7", "1", "1.4", "2"])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(10)
    figure.suptitle(f"{images} images of each generator, same label maps, 2 mm", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _curve(axis: Any, shares: np.ndarray[Any, Any], span: tuple[float, float], engine: str) -> None:
    edges = np.linspace(*span, len(shares) + 1)
    density = shares / (edges[1] - edges[0])
    axis.stairs(density, edges, color=COLOURS[engine], label=engine, linewidth=1.5)


def _boxes(
    axis: Any, found: Mapping[str, Numbers], names: Sequence[str], labels: Sequence[str]
) -> None:
    width = 0.8 / len(found)
    for place, (engine, numbers) in enumerate(found.items()):
        offset = (place - (len(found) - 1) / 2) * width
        colour = COLOURS[engine]
        axis.boxplot(
            [numbers[name] for name in names],
            positions=[i + offset for i in range(len(names))],
            widths=0.85 * width,
            whis=(5, 95),  # codespell:ignore
            showfliers=False,
            manage_ticks=False,
            boxprops={"color": colour},
            whiskerprops={"color": colour},
            capprops={"color": colour},
            medianprops={"color": colour, "linewidth": 2},
        )
    axis.set_xticks(range(len(names)), labels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the images, print the medians, save the panels."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--images", type=int, default=40, help="of each generator")
    options.add_argument("--engines", nargs="+", choices=list(generators.MAKERS))
    options.add_argument("--figure", type=Path, help="PNG for the panels")
    options.add_argument("--json", type=Path, help="file for the medians")
    chosen = options.parse_args(arguments)
    problem = generators.Problem.read(generators.icbm(), SHAPE, SPACING_MM)
    engines = generators.installed(chosen.engines or list(generators.MAKERS))
    found = {engine: collect(engine, problem, chosen.images) for engine in engines}
    table = summary(found)
    for name in next(iter(table.values())):
        print(f"{name:<20}", *(f"{engine} {row[name]:8.4f}  " for engine, row in table.items()))
    if chosen.json:
        chosen.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    if chosen.figure:
        draw(found, chosen.figure)


if __name__ == "__main__":
    main()
