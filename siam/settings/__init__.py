"""Settings as dataclasses that check themselves, and the recipes to start from."""
