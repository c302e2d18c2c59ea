"""Format transfer results as a table for the terminal."""

from rich.table import Table

from siam.report.published import COLUMNS, column, compared
from siam.runs.results import PRECISIONS, TransferResult


def table(result: TransferResult) -> Table:
    """Build a table of the measured AP, followed by the published AP."""
    shown = Table("%", *PRECISIONS.values(), box=None, padding=(0, 2))
    measured = len(result.kinds())
    for i, row in enumerate(compared(result)):
        shown.add_row(*row, style="bold" if i < measured else "dim", end_section=i == measured - 1)
    columns = " and ".join(
        COLUMNS[column(result.layout, result.years, kind == "masks")] for kind in result.kinds()
    )
    shown.caption = f"dimmed: published (SimSiam, Table 5: {columns}), ResNet-50, 200 epochs on ImageNet"
    return shown
