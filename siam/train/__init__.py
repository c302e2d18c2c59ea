"""Pretraining: from batches of view pairs to a trained encoder."""
