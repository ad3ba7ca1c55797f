"""Code that runs on a worker."""
