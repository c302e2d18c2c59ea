"""Evaluation protocols for a trained encoder: kNN, probe, linear, fine-tuning."""
