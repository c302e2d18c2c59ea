"""Devices, memory, process start-up and files."""
