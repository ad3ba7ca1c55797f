"""Reading of slides: a protocol, a module for each reader, regions at any mpp."""
