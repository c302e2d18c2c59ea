"""Find the training bottleneck on this machine."""
