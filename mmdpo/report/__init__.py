"""Pages, figures and cards about runs and records; everything that people look at is made here."""

from mmdpo.report.card import write_card
from mmdpo.report.figures import write_figures
from mmdpo.report.pages import write_report
from mmdpo.report.quality import differing_words, write_quality_page, write_records_page
from mmdpo.report.run_pages import write_run_pages
from mmdpo.report.tables import write_tables

__all__ = [
    "differing_words",
    "write_card",
    "write_figures",
    "write_quality_page",
    "write_records_page",
    "write_report",
    "write_run_pages",
    "write_tables",
]
