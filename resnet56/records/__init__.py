"""Runs, suites, checkpoints and measurements on disk, and the figures that others published."""
