"""Benchmarks: each prints its figures, the command and the machine; none is part of the test suite."""
