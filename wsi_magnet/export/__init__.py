"""From a result to what other programs open: objects for QuPath, OME-TIFF, tables. Knows only what lies in a result."""
