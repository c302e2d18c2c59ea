"""From files to batches of view pairs."""
