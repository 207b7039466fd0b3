"""Looking at runs: one HTML file (`write_report`) or tables in a terminal, whether they are
finished, going on or killed.

`reading` takes what a run folder holds, `grouping` puts seeds together and finds what differs,
`headline`, `panels`, `series` and `completions` choose what is shown; `page` writes the file, which
page.html, page.css and page.js draw.
"""

from rlhf_jax.runs.report.page import write_report
from rlhf_jax.runs.report.reading import Run, find_runs, read_run

__all__ = ["Run", "find_runs", "read_run", "write_report"]
