"""Planning before any computation: tissue, cells, tiles, cost."""
