"""Settings as dataclasses that check themselves, and recipes."""
