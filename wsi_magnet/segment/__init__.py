"""Segmentation of one slide, scale after scale."""
