"""A run on one page: a function of its folder."""
