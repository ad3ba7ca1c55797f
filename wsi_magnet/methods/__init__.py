"""Methods of the poster: each turns the pixels and the coarser result of a patch into the result of its cell."""
