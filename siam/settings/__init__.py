"""Settings as dataclasses that check their own values."""
