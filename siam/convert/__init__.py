"""Checkpoints in from other projects, encoders out to other libraries."""
