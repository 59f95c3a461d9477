"""Pydra, apart from what other runs left."""

import pytest


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_ET", "1")
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))
