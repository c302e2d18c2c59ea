"""Distributed training: launching processes, connecting them, and communication between them."""
