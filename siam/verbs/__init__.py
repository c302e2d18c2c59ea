"""Verbs of the `siam` command; siam/cli/command.py describes the interface."""
