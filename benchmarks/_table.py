"""What the benchmarks share: options, interleaved timing, the printed table, the JSON rows."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every benchmark takes."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="minutes on two CPU cores")
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    options.add_argument("--json", type=Path, help="file for the rows")
    return options


def machine(device: str, threads: int | None = None) -> str:
    """What the figures were measured on: the GPU's name, or the CPU's and the number of threads."""
    import torch

    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{_cpu()}, {threads or torch.get_num_threads()} threads, torch {torch.__version__}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def interleaved(
    cases: Mapping[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of each case, run in turn after one warm-up."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    wall: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, run in cases.items():
            wait()
            clock, processor = time.perf_counter(), time.process_time()
            run()
            wait()
            if repeat:
                wall[name].append(time.perf_counter() - clock)
                cpu[name].append(time.process_time() - processor)
    return {
        name: {"time": statistics.median(wall[name]), "cpu_time": statistics.median(cpu[name])}
        for name in cases
    }


def row(case: str, metric: str, value: float, unit: str, base: str, base_value: float) -> Row:
    """One row of the table; ``ratio`` is to the value of the case ``base``."""
    return {
        "case": case,
        "metric": metric,
        "value": value,
        "unit": unit,
        "ratio_to": base,
        "ratio": value / base_value if base_value else None,
    }


def report(rows: Sequence[Row], path: Path | None) -> None:
    """Print the rows as a table and write them as JSON."""
    width = max(len(r["case"]) for r in rows)
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:8.3f} x {r['ratio_to']}"
        print(f"{r['case']:<{width}}  {r['metric']:<10} {r['value']:10.4g} {r['unit']:<4} {ratio}")
    write(rows, path)


def write(rows: Sequence[Row], path: Path | None) -> None:
    """Write the rows as JSON, if there is a file for them."""
    if path:
        path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def markdown(rows: Sequence[Row]) -> str:
    """One line a case and one column a metric: ratios, and the values of the bases.

    >>> base = row("plain", "time", 2.0, "s", "plain", 2.0)
    >>> print(markdown([base, row("exact", "time", 7.0, "s", "plain", 2.0)]))
    | case | time |
    | --- | --- |
    | plain | 1 (2 s) |
    | exact | 3.50 |
    """
    cases = list(dict.fromkeys(r["case"] for r in rows))
    metrics = list(dict.fromkeys(r["metric"] for r in rows))
    cells = {(r["case"], r["metric"]): _cell(r) for r in rows}
    lines = [["case", *(m.replace("_", " ") for m in metrics)], ["---"] * (1 + len(metrics))]
    lines += [[case, *(cells.get((case, m), "") for m in metrics)] for case in cases]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(r: Row) -> str:
    value = (
        f"{r['value']:.3g} {r['unit']}".strip()
        if r["value"] < 100
        else f"{r['value']:.0f} {r['unit']}"
    )
    if r["case"] == r["ratio_to"]:
        return f"1 ({value})"
    return value if r["ratio"] is None else f"{r['ratio']:.2f}"
