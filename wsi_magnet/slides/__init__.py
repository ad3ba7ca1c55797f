"""Slides: one protocol, one file a reader, regions at any mpp."""
