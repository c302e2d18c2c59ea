"""Conversion of checkpoints of other projects, and of encoders to other formats."""
