"""Pages of results: what a benchmark writes, and below it what somebody wrote about it."""

from __future__ import annotations

from pathlib import Path

NOTES = "## Notes"


def write_page(path: Path, text: str) -> None:
    """Write a page anew; what stands in it from `NOTES` on is kept."""
    notes = "".join(path.read_text().partition(NOTES)[1:]) if path.exists() else ""
    path.write_text(f"{text.rstrip()}\n\n{notes}".rstrip() + "\n")
