"""Polygons from a label image, streamed block by block."""
