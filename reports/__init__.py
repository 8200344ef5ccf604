"""A finished run -> one self-contained HTML file (design D11).

The report is inert: no network, no script but its own, whose hash the content security policy names. It reads
stored numbers and computes none, so what it shows can be checked against ``results.json`` cell by cell.
"""

from lr2eval.reports.page import render, report_html
from lr2eval.reports.search.page import is_search, render_search

__all__ = ["is_search", "render", "render_search", "report_html"]
