"""Restore images: files in and out, tiles, checkpoints."""
