"""Networks at work: patches in, cells out, on CPUs and GPUs."""
