"""The verbs of the `siam` command, one file each; siam/cli/command.py explains what a verb contains."""
