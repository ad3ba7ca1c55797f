"""Exports of a result for other programs: objects for QuPath, OME-TIFF, tables. Reads only result folders."""
