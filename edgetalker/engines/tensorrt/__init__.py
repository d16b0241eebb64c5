"""TensorRT, TensorRT for RTX and the lean runtime: one adapter that builds and runs plans."""
