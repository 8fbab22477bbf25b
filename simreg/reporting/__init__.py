"""Reports of results files: one HTML page with tables and figures, and a model card in Markdown."""

from simreg.reporting.report import Report, make_report
from simreg.reporting.runs import Run, load_runs

__all__ = ["Report", "Run", "load_runs", "make_report"]
