"""The `siam` command."""

from siam.cli.command import main

__all__ = ["main"]
