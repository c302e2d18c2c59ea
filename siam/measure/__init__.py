"""Measurements of features."""
