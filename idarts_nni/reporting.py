"""``idarts report``: tables, pictures and a page of experiments, and the README's tables."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from .files import write_atomically
from .gather import Source, all_records, gather
from .groups import group_runs, summary_frame
from .messages import FAILED, say
from .outcome import write_outputs
from .page import render_page
from .page_charts import convergence_charts, learning_charts
from .results import merge_results, update_readme

PAGE, SUMMARY = "report.html", "summary.csv"
DOCUMENTS = (Path("README.md"), Path("docs", "results.md"))
"""What has tables that are made from results files."""
SEVERAL = Path("idarts-report")
"""Where a report goes that is not about one folder."""


def report(options: argparse.Namespace) -> int:
    """Make tables, pictures and a page, or renew the README's tables."""
    if options.update_readme:
        documents = options.readme or [path for path in DOCUMENTS if path.is_file()]
        if not documents:
            raise ValueError(
                f"There is no {' and no '.join(map(str, DOCUMENTS))} here ({Path.cwd()}); name one: --readme."
            )
        stale = [(path, name) for path in documents
                 for name in update_readme(path, options.results_folder, check=options.check)]  # fmt: skip
        for path, name in stale:
            say(f"{path}: the table {name} {'is not up to date' if options.check else 'was renewed'}.")
        return FAILED if stale and options.check else 0
    if not options.experiment:
        raise ValueError("name an experiment id, a folder with records or a results file, or use --update-readme.")
    sources = gather(options.experiment)
    records = all_records(sources)
    folder = options.output or _own_folder(sources)
    outputs = write_outputs(folder, records)
    page = write_page(folder, sources)
    files = [*outputs.files, folder / SUMMARY, *outputs.pictures, *write_charts(folder, sources)]
    print(f"{outputs.tables}\nTables:   " + "\n          ".join(map(str, files)))
    print(f"Page:     {page}")
    if options.results is not None:
        measured = [record for source in sources if source.folder is not None for record in source.records]
        count = merge_results(options.results, measured, replace=options.replace)
        print(f"Results:  {options.results} ({count} rows)")
    return FAILED if any("failure" in record for record in records) else 0


def write_page(folder: Path, sources: list[Source]) -> Path:
    """Write the page and the summary by method into a folder, and return the path of the page."""
    now = datetime.datetime.now(datetime.timezone.utc)
    content = render_page(sources, f"{now:%Y-%m-%d %H:%M} UTC")
    summary = summary_frame(group_runs(all_records(sources)))
    write_atomically(folder / SUMMARY, summary.to_csv(index=False, lineterminator="\n"))
    write_atomically(folder / PAGE, content)
    return folder / PAGE


def write_charts(folder: Path, sources: list[Source]) -> list[Path]:
    """Write the page's curves as SVG files too, for documents of one's own, and return their paths."""
    records = all_records(sources)
    kinds = {
        "convergence": convergence_charts(group_runs(records), records),
        "learning": learning_charts(records),
    }
    paths = []
    for kind, charts in kinds.items():
        for number, chart in enumerate(charts, start=1):
            paths.append(folder / f"{kind}-{number}.svg")
            write_atomically(paths[-1], chart.image.svg)
    return paths


def _own_folder(sources: list[Source]) -> Path:
    if len(sources) == 1 and sources[0].folder is not None:
        return sources[0].folder / "idarts"
    return SEVERAL
