"""Measurements of what this project claims, to be repeated by anyone: `python -m benchmarks.toyworld`."""
