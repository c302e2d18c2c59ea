"""Reproduce the tables and figures of the SimSiam paper."""
