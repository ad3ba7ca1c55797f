"""The fault drill (`make drill`): real faults in real processes, and a comparison of the masks."""
