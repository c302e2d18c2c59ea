"""Pretraining: training loop, optimizer and metrics."""
