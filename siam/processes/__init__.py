"""Distributed training: launch and connect processes, and exchange data between them."""
