"""The sections of a run's page, one file each, found by listing this folder.

A section has ORDER, its place on the page, and

    def html(run: Contents) -> Markup | str

which returns "" where there is nothing to show. Markup goes into the page as it is (`render` makes it from a
template, in which every value is escaped); any other str is escaped.
"""
