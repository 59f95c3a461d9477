"""Pydra and Nipype workflows, and the command line."""
