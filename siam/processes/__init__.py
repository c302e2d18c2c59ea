"""Distributed training: launch processes, connect them, and exchange data."""
