"""What the Prefect UI shows of a run beside its states."""

import base64
import re
from collections import Counter
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from samuel.files import Entry
from samuel.popdb.outcome import Outcome
from samuel.popdb.shards import Popdb

IMAGE = re.compile(r"!\[([^\]]*)\]\(([\w.-]+\.png)\)")


def show_dataset(popdb: Popdb, outcomes: Sequence[Outcome]) -> None:
    """What became of the songs, counted by stage and status: the UI cannot hold a row per song."""
    counts = Counter((outcome.stage, outcome.status.value) for outcome in outcomes)
    rows = [{"stage": stage, "status": status, "songs": n} for (stage, status), n in sorted(counts.items())]
    create_table_artifact(key="songs", table=rows, description="What became of the songs")
    numbers = [{"count": name, "value": value} for name, value in popdb.info["counts"].items()]
    create_table_artifact(key="popdb", table=numbers, description=f"POPDB at {popdb.root}")


def show_report(report: Entry) -> None:
    """The report with its plots inside."""
    text = report.path("report.md").read_text("utf-8")
    create_markdown_artifact(key="report", markdown=IMAGE.sub(lambda found: _inline(report, found), text))


def _inline(report: Entry, found: "re.Match[str]") -> str:
    data = base64.b64encode(report.path(found[2]).read_bytes()).decode()
    return f"![{found[1]}](data:image/png;base64,{data})"
