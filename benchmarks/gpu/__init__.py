"""What `make gpu-check` runs: every check of the CUDA device, and every figure, in one report."""
