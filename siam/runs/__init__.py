"""Run folders: what they contain, and the session that writes them."""
