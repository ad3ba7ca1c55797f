"""Decisions before any computation: tissue, cells, tiles, costs."""
