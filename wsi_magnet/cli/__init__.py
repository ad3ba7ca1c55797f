"""The command line: one file for each command, which translates options to a library call."""
