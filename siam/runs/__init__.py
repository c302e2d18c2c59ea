"""Run folders: reading them, and the session that writes them during training."""
