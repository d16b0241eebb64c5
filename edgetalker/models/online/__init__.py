"""The project's own talker: a causal audio trunk, an autoregressive diffusion head, their data and training."""
