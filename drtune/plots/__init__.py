"""Pictures for a report: each function takes data and returns a matplotlib figure; `save` writes it.

Nothing here touches pyplot or a display. Equal data give equal bytes.
"""

from drtune.plots.reports import draw_reports
from drtune.plots.robustness import corruption_figures
from drtune.plots.style import save

__all__ = ["corruption_figures", "draw_reports", "save"]
