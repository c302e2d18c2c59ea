"""Reproduce the paper's tables and figures by name."""
