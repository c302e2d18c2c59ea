"""All settings of the run, in a table that opens on demand."""

from markupsafe import Markup

from siam.report.contents import Contents
from siam.report.html import settings_table
from siam.settings.plain import to_dict

ORDER = 90


def html(run: Contents) -> Markup:
    """Return the table."""
    return settings_table(to_dict(run.settings))
