"""Checks of an installation, its machine and its cluster, by subject; each result that is not good has a remedy."""
