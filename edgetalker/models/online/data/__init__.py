"""Synthetic speech with phone times and the procedural faces that go with it."""
