"""Volumes and the way to the working grid and back."""
