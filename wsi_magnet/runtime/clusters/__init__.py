"""Clusters that a file describes: local, batch systems."""
