"""The bottleneck of training on this machine."""
