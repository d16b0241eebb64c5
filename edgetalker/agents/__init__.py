"""Faces for voice agents: a processor for Pipecat, an output for LiveKit. Each needs its own extra."""
