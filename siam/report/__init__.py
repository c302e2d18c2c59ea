"""Self-contained HTML reports, built only from the files in a run folder."""
