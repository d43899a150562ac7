"""Weights: read, described, converted, downloaded; one reader for everybody who opens a checkpoint."""
