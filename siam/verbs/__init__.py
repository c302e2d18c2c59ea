"""The verbs of the `siam` command, one file each. siam/cli/command.py says what a verb is made of."""
