"""The command line: a command a file, each only a translation from options to one library call."""
