"""Storage of files: locations on disk and in object stores, locks, atomic and conditional writes, append-only logs."""
