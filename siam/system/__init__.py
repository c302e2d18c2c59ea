"""Devices, memory, files, and starting processes."""
