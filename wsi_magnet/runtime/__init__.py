"""Executors: who runs the tasks; knows nothing of slides."""
