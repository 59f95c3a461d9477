"""No run talks to anybody, and nobody is told that it was made."""

import os
import subprocess
import sys

import pytest

from l2s_pydra.workflows import bids_app
from l2s_pydra.workflows.options import Options

ASK = "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)"


def test_the_watch_sees_a_connection(environment, tmp_path):
    log = tmp_path / "sockets.txt"
    watched = {**environment, "WATCHED_SOCKETS": str(log)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=watched, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert "getaddrinfo" in log.read_text()


def test_a_run_of_all_levels_asks_no_network(finished, sockets):
    assert finished.code == 0
    assert not sockets.exists(), sockets.read_text()


@pytest.mark.parametrize("before", [{}, {"NO_ET": "yes", "NIPYPE_NO_ET": "0"}])
def test_telemetry_is_off_and_a_setting_of_the_user_stays(tmp_path, monkeypatch, before):
    for name in ("NO_ET", "NIPYPE_NO_ET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    places = dict.fromkeys(("bids_dir", "output_dir", "work_dir"), tmp_path)
    bids_app._set_up_processes(Options(**places, levels=()))
    found = {name: os.environ[name] for name in ("NO_ET", "NIPYPE_NO_ET")}
    assert found == (before or {"NO_ET": "1", "NIPYPE_NO_ET": "1"})
