"""Pydra tasks, one a step."""
