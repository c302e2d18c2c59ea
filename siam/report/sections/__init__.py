"""Sections of a run's report; each module in this package renders one section.

A section module defines ORDER, the sort key of the section on the page, and

    def html(run: Contents) -> Markup | str

which returns "" if there is nothing to show. Markup is inserted unchanged; a plain str
is escaped. `render` returns Markup in which all values are escaped.
"""
