"""Pixels: image files in and out, their headers, and panels of pictures."""
