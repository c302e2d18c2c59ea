"""Distributed training: launching processes, connecting them, and communicating between them."""
