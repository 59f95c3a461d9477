"""The notebook runs, and what it shows is what it makes."""

import asyncio
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOK, 4)


def cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    """Text and pictures of a cell, numbers and the sizes of gaps left out."""
    text = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    pictures = sum("image/png" in output.get("data", {}) for output in cell.outputs)
    return " ".join(re.sub(r"-?\d+\.\d+", "#", text).split()), pictures


def test_outputs_come_with_it_and_name_no_machine(committed):
    nbformat.validate(committed)
    assert [cell.execution_count for cell in cells(committed)] == list(
        range(1, len(cells(committed)) + 1)
    )
    assert sum(shown(cell)[1] for cell in cells(committed)) >= 3
    for cell in cells(committed):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"(^|[\s'\"])/\w+/", text), text
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of what runs notebooks
def test_it_runs_and_shows_the_same(committed, tmp_path, monkeypatch):
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    again = nbformat.read(NOTEBOOK, 4)
    for cell in cells(again):
        cell.outputs = []
    client = NotebookClient(again, timeout=900, kernel_name="python3")
    client.create_kernel_manager().kernel_spec.argv[0] = sys.executable
    asyncio.run(client.async_execute())
    for before, after in zip(cells(committed), cells(again), strict=True):
        assert shown(after) == shown(before), after.source
    assert shown(cells(again)[-1])[0] == "True True"
