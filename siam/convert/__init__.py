"""Import checkpoints from other projects, export encoders to other formats, and embed images."""
