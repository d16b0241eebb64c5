"""Fuzz targets: inputs changed by a seeded generator. Each is a module with `run(examples, seconds, seed) -> int`."""
