"""Benchmarks; each prints its figures, the command and the machine. None is part of the test suite."""
