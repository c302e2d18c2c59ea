"""Recipes, and settings as self-checking dataclasses."""
