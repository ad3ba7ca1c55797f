"""A result folder and all that lies in it."""
