"""Nipype interfaces, one a step."""
