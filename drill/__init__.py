"""The fault drill (`make drill`): real processes, real faults, and the mask that comes of it; not of the test suite."""
