"""Read run folders, and write them during training."""
