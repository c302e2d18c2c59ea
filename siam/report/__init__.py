"""The report: a run on one page, as a function of its folder."""
