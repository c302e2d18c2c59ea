"""The sections of a run's report, one module each; every module in this folder is used.

A section module defines ORDER, a number that sorts the sections on the page, and

    def html(run: Contents) -> Markup | str

which returns "" if there is nothing to show. Markup is inserted unchanged (`render` produces it from a
template, escaping every value); a plain str is escaped.
"""
