"""What was found in a preprocessed folder without damage, in plain numbers and in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..data.leakage_report import leakage_sentence, percent
from ..data.manifest import Manifest
from ..data.storage import Location
from .data_leakage import SplitLeakage
from .data_statistics import SplitStatistics, divergence

NOTEWORTHY_SHARE = 0.1
"""A share of the k-mers of val or test found in train from which the verdict names a remedy."""


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What was found in a preprocessed folder without damage."""

    folder: Location
    manifest: Manifest
    statistics: Mapping[str, SplitStatistics]
    """By split, in the order train, val, test."""
    leakage: Mapping[str, SplitLeakage]
    """By held-out split; empty where nothing is held out or there is no train."""

    @property
    def sequence_type(self) -> str:
        return next(iter(self.statistics.values())).sequence_type

    @property
    def unit(self) -> str:
        return "residue" if self.sequence_type == "protein" else "base"


def plain(summary: DataSummary) -> dict[str, object]:
    """The numbers as JSON: `splits` and `leakage`, by split."""
    splits = {}
    for name, found in summary.statistics.items():
        splits[name] = {
            "rows": found.num_rows, "rows_looked_at": found.rows, "tokens": summary.manifest.splits[name].tokens,
            "bases": summary.manifest.splits[name].bases, "mean_length": found.mean_length, "padding_share": found.padding_share,
            "unknown_share": found.unknown_share, "gc": found.gc, "duplicate_rows": found.duplicate_rows,
            "divergence_from_train_bits": divergence_from_train(summary, name),
        }
    leakage = {}
    for name, leaked in summary.leakage.items():
        counts = {"rows_looked_at": leaked.rows, "exact_rows": leaked.exact_rows}
        leakage[name] = {**counts, **asdict(leaked.shares), "worst": [list(row) for row in leaked.worst]}
    return {"splits": splits, "leakage": leakage}


def sentences(summary: DataSummary) -> list[str]:
    """What the splits hold and how much of val and test stands in train, a sentence each."""
    said = []
    for name, found in summary.statistics.items():
        gc = f"GC {percent(found.gc)}, " if found.gc is not None else ""
        looked = "" if found.rows == found.num_rows else f" ({found.rows:,} of them, spread evenly, were looked at)"
        said.append(
            f"{name}: {found.num_rows:,} windows{looked} of {found.mean_length:,.0f} {summary.unit}s on average, {gc}"
            f"padding {percent(found.padding_share)}, [UNK] {percent(found.unknown_share)} of the tokens, "
            f"{found.duplicate_rows:,} repeated windows{strands(summary)}"
        )
    for name, leaked in summary.leakage.items():
        said.append(f"{leakage_sentence(name, leaked.shares)}, {leaked.exact_rows:,} of {leaked.rows:,} windows the same")
    return said


def verdict(summary: DataSummary) -> str:
    """One sentence or two: nothing is damaged, and how far held-out numbers can be trusted."""
    intact = "Every file and row is as it was written."
    if not summary.leakage:
        return f"{intact} Nothing is held out beside train, so there is no leakage to measure."
    shares = [f"{percent(found.shares.kmer_share)} of the {found.shares.k}-mers of {name}" for name, found in summary.leakage.items()]
    worst = max(found.shares.kmer_share for found in summary.leakage.values())
    by = summary.manifest.config["preprocessing"].get("split", {}).get("by")
    remedy = " preprocessing.split.by=cluster keeps similar records in one split." if worst >= NOTEWORTHY_SHARE and by != "cluster" else ""
    return f"{intact} Train also holds {' and '.join(shares)}.{remedy}"


def divergence_from_train(summary: DataSummary, name: str) -> float | None:
    """Jensen-Shannon divergence of a split's composition from that of train, in bits; None without train or without letters."""
    train, other = (summary.statistics[split].composition() if split in summary.statistics else {} for split in ("train", name))
    return divergence(train, other) if train and other else None


def strands(summary: DataSummary) -> str:
    """What to add to `the same`."""
    return ", on either strand" if summary.unit == "base" else ""
