"""Whether an installation will work: facts gathered, each judged by a pure function, each complaint with its cure."""
