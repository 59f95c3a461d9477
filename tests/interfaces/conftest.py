"""Nipype, without a word to its makers."""

import pytest


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("NIPYPE_NO_ET", "1")
