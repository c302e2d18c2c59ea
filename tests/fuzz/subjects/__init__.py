"""What is fuzzed, one file per subject; tests/fuzz/cases.py describes the interface."""
