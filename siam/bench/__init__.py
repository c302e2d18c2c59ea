"""What limits the speed of training on this machine."""
