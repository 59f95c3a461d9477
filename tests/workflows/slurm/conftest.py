"""A real Slurm for the tests here, if its packages are installed."""

import importlib.util
import shutil
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("cluster", Path(__file__).with_name("cluster.py"))
cluster = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cluster)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory, environment):
    """Environment in which the commands of a running Slurm find it."""
    reason = cluster.why_not()
    if reason:
        pytest.skip(f"no Slurm here: {reason}")
    # Names of sockets are short.
    folder = Path(tmp_path_factory.mktemp("slurm"))
    with cluster.running(folder) as variables:
        yield {**environment, "SLURM_CONF": variables["SLURM_CONF"]}


@pytest.fixture(scope="session")
def limits_memory():
    return cluster.limits_memory()


@pytest.fixture(scope="session")
def eight(phantom, tmp_path_factory):
    """Data set of eight images, some of them the same head by another name."""
    data = tmp_path_factory.mktemp("eight") / "data"
    shutil.copytree(phantom, data)
    for path in (data, *data.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    for number, source in ((5, "02"), (6, "03"), (7, "04")):
        anat = data / f"sub-0{number}" / "anat"
        anat.mkdir(parents=True)
        for path in (data / f"sub-{source}" / "anat").iterdir():
            shutil.copy(path, anat / path.name.replace(f"sub-{source}", f"sub-0{number}"))
    return data
