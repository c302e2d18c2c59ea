"""Report section: all settings of the run."""

from markupsafe import Markup

from siam.report.contents import Contents
from siam.report.html import settings_table
from siam.settings.plain import to_dict

ORDER = 90


def html(run: Contents) -> Markup:
    """Render a collapsible table of all settings."""
    return settings_table(to_dict(run.settings))
