"""The sections of a run's page, one module each, discovered by listing this folder.

A section defines ORDER, its position on the page, and

    def html(run: Contents) -> Markup | str

which returns "" if there is nothing to show. Markup is inserted unchanged (`render` produces it from a
template, escaping every value); a plain str is escaped.
"""
