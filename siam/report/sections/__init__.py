"""The sections of a run's page, one file each, found by listing this folder.

A section has ORDER, its position on the page, and

    def html(run: Contents) -> Markup | str

which returns "" if there is nothing to show. Markup is inserted unchanged (`render` makes it from a template,
in which every value is escaped); a plain str is escaped.
"""
