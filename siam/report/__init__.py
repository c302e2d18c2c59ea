"""One self-contained page per run, built from the run folder alone."""
