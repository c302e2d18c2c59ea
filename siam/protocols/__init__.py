"""Evaluate a trained encoder on labeled images."""
