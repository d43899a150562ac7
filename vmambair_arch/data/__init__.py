"""Data sets, synthetic rain, and the preparation of downloaded archives."""
