"""The machine: devices, memory, processes and files."""
