"""What the benchmarks share: options, interleaved timing, the printed table, the JSON rows."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every benchmark takes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--quick", action="store_true", help="minutes on two CPU cores")
    options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:n")
    options.add_argument("--json", type=Path, help="file for the rows")
    return options


def interleaved(
    cases: Mapping[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of each case, run in turn after one warm-up."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

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
    if path:
        path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
