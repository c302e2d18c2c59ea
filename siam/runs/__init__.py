"""The contents of a run folder, and the session that writes them."""
