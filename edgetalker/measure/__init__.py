"""What a bundle costs on this machine: latency, where each frame's time goes, and the least that it could be."""
