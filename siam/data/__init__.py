"""The data pipeline, from files to batches of views."""
