"""The report of preprocessed data: one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path

from ..data.leakage_report import percent
from .data_figures import grouped_bars, histogram, spectrum
from .data_statistics import AMBIGUITY_EDGES, KMER
from .data_summary import NOTEWORTHY_SHARE, DataSummary, divergence_from_train, strands, verdict
from .page import PAGE
from .parts import table

MOST_LISTED = 20


def render(summary: DataSummary) -> str:
    """The page."""
    sections = [
        ("Splits", _splits(summary)),
        ("Windows", _windows(summary)),
        ("Composition", _composition(summary)),
        ("Leakage", _leakage(summary)),
        ("Weights in the loss", _weights(summary)),
        ("Labels", _labels(summary)),
        ("What was dropped", _dropped(summary)),
        ("Inputs", _inputs(summary)),
    ]
    body = "\n".join(f"<section><h2>{escape(title)}</h2>\n{content}\n</section>" for title, content in sections if content)
    body = body.replace(" %", "\u00a0%")  # a number and its sign stay on one line
    head = {"title": f"Data in {summary.folder.name}", "subtitle": _subtitle(summary), "verdict": verdict(summary)}
    return PAGE.substitute({name: escape(text) for name, text in head.items()}, cards=_cards(summary), body=body)


def _subtitle(summary: DataSummary) -> str:
    tokenizer = summary.manifest.tokenizer
    kind = str(tokenizer["kind"]).replace("_", " ")
    k = f" (k {tokenizer['kmer_size']}, stride {tokenizer['kmer_stride']})" if tokenizer["kind"] == "kmer" else ""
    return f"{summary.sequence_type.upper() if summary.unit == 'base' else 'protein'}, {kind} tokens{k}, {summary.folder}"


def _cards(summary: DataSummary) -> str:
    splits = summary.manifest.splits.values()
    cards = {
        "windows": f"{sum(split.rows for split in splits):,}",
        "tokens": f"{sum(split.tokens for split in splits):,}",
        f"{summary.unit}s": f"{sum(split.bases for split in splits):,}",
        "tokens a window": f"{summary.manifest.width:,}",
        "symbols": f"{summary.manifest.tokenizer['vocab_size']:,}",
        "input files": f"{len(summary.manifest.inputs):,}",
    }
    return "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for name, value in cards.items())


def _splits(summary: DataSummary) -> str:
    protein = summary.unit == "residue"
    header = ["split", "windows", "tokens", f"{summary.unit}s", f"mean length ({summary.unit}s)", "padding", "[UNK]", "repeated windows"]
    rows = []
    for name, found in summary.statistics.items():
        stored, gc = summary.manifest.splits[name], found.gc
        row = [
            name, f"{stored.rows:,}", f"{stored.tokens:,}", f"{stored.bases:,}", f"{found.mean_length:,.1f}", percent(found.padding_share),
            percent(found.unknown_share), f"{found.duplicate_rows:,}",
        ]
        rows.append(tuple(row if protein else [*row, percent(gc) if gc is not None else "none"]))
    looked = [
        f"Of {name}, {found.rows:,} of {found.num_rows:,} windows, spread evenly, were looked at: means, repeats and pictures are theirs."
        for name, found in summary.statistics.items() if found.rows < found.num_rows
    ]
    notes = [f"A repeated window is the same as an earlier one of its split{strands(summary)}.", *looked]
    return table(header if protein else [*header, "GC"], rows) + _notes(notes)


def _windows(summary: DataSummary) -> str:
    unit, found = summary.unit, summary.statistics
    lengths = {name: s.lengths[1:] for name, s in found.items()}
    svg = histogram(lengths, first=1, x_label=f"{unit}s in a window", y_label="windows of the split", log=True)
    pictures = [(svg, "Length of the windows, on a logarithmic scale")]
    if unit == "base":
        percents = {name: s.gc_percents for name, s in found.items()}
        svg = histogram(percents, x_label="GC of a window (%)", y_label="windows of the split")
        pictures.append((svg, "GC content: share of G and C among the unambiguous bases"))
    if not any(s.unknown_tokens for s in found.values()):
        return _grid(pictures) + _notes(["No window holds an ambiguous token ([UNK])."])
    names = ["none", *(f"to {100 * edge:g} %" for edge in AMBIGUITY_EDGES[1:])]
    shares = {name: (s.ambiguity / s.rows).tolist() for name, s in found.items()}
    svg = grouped_bars(names, shares, x_label="[UNK] tokens in a window", y_label="windows of the split", log=True)
    return _grid([*pictures, (svg, "Ambiguity: share of tokens without a symbol, on a logarithmic scale")])


def _composition(summary: DataSummary) -> str:
    shares = {name: found.composition() for name, found in summary.statistics.items()}
    shares = {name: of_word for name, of_word in shares.items() if of_word}
    if not shares:
        return ""
    first = next(iter(shares))
    if summary.unit == "residue":
        present = [letter for letter in shares[first] if any(of[letter] for of in shares.values())]
        names = sorted(present, key=lambda letter: -shares[first][letter])
        values = {name: [of[letter] for letter in names] for name, of in shares.items()}
        svg = grouped_bars(names, values, x_label="amino acid", y_label="residues of the split", wide=True)
        caption = f"Amino acids, from the most to the least frequent in {first}"
    else:
        svg = spectrum(shares, x_label=f"canonical {KMER}-mer", y_label=f"{KMER}-mers of the split")
        caption = (
            f"The {len(shares[first])} canonical {KMER}-mers (a word and its reverse complement count as one), "
            f"from the most to the least frequent in {first}; every fourth is named"
        )
    apart = [f"{name} {bits:.5f}" for name in shares if (bits := divergence_from_train(summary, name)) is not None and name != "train"]
    note = [f"Jensen-Shannon divergence from train, in bits (0: the same, 1: nothing in common): {', '.join(apart)}."] if apart else []
    return _figure(svg, caption) + _notes(note)


def _leakage(summary: DataSummary) -> str:
    if not summary.leakage:
        return ""
    any_split = next(iter(summary.leakage.values())).shares
    k, threshold = any_split.k, any_split.near_duplicate_threshold
    rows = []
    for name, found in summary.leakage.items():
        s = found.shares
        rows.append((
            name, f"{found.rows:,}", percent(s.kmer_share), percent(s.half_found_share), percent(s.mostly_found_share),
            percent(s.near_duplicate_share), f"{found.exact_rows:,}", f"{s.unsampled_windows:,}",
        ))
    header = [
        "found in train", "windows looked up", f"{k}-mers", "windows by half or more", "windows by 90 % or more",
        f"near-duplicates (similarity {threshold:g})", "the same window", "unknown",
    ]
    worst = [
        (name, row, percent(share)) for name, found in summary.leakage.items() for row, share in found.worst if share >= NOTEWORTHY_SHARE
    ]
    places = f"<details><summary>Windows most found in train</summary>{table(['split', 'window', f'{k}-mers in train'], worst)}</details>"
    both = "on either strand" if summary.unit == "base" else "as they stand"
    notes = [
        f"All windows of train were compared, {both}. One {k}-mer in {any_split.scale:,} was looked up; windows without one are unknown. "
        "Near-duplicates are estimated by MinHash, between windows as they were cut."
    ]
    return table(header, rows) + _notes(notes) + (places if worst else "")


def _weights(summary: DataSummary) -> str:
    weights = {name: found.weights for name, found in summary.statistics.items() if found.weights}
    if not weights:
        return ""
    values = sorted({value for counts in weights.values() for value in counts})
    rows = [(f"{value:g}", *(percent(counts[value] / counts.total()) for counts in weights.values())) for value in values]
    if len(values) > MOST_LISTED:
        rows = []  # weights that are means over k-mers take any value
    means = ", ".join(f"{name} {sum(v * n for v, n in counts.items()) / counts.total():.3f}" for name, counts in weights.items())
    listed = table(["weight", *(f"tokens of {name}" for name in weights)], rows) if rows else ""
    return listed + _notes([f"Mean weight of a token: {means}."])


def _labels(summary: DataSummary) -> str:
    labelled = {name: found for name, found in summary.statistics.items() if found.labels}
    if not labelled:
        return ""
    total: Counter[str] = sum((found.labels for found in labelled.values()), start=Counter())
    most = [label for label, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:MOST_LISTED]]
    rows = []
    for label in most:
        rows.append((label, *(f"{found.labels[label]:,} ({percent(found.labels[label] / found.rows)})" for found in labelled.values())))
    rows.append(("without a label", *(f"{found.unlabelled_rows:,}" for found in labelled.values())))
    notes = [f"The {MOST_LISTED} most frequent of {len(total):,} labels."] if len(total) > MOST_LISTED else []
    return table(["label", *(f"windows of {name}" for name in labelled)], rows) + _notes(notes)


def _dropped(summary: DataSummary) -> str:
    dropped, total = summary.manifest.dropped, sum(file.bases for file in summary.manifest.inputs)
    if not dropped:
        return "<p>Nothing was dropped.</p>"
    rows = []
    for reason, counts in sorted(dropped.items(), key=lambda item: -item[1].get("bases", 0)):
        records, windows = (f"{counts[name]:,}" if name in counts else "" for name in ("records", "windows"))
        bases = counts.get("bases", 0)
        rows.append((reason.replace("_", " "), records, windows, f"{bases:,}", percent(bases / max(total, 1))))
    return table(["reason", "records", "windows", f"{summary.unit}s", f"of all {summary.unit}s"], rows)


def _inputs(summary: DataSummary) -> str:
    files = summary.manifest.inputs
    rows = [(Path(file.path).name, f"{file.records:,}", f"{file.bases:,}") for file in files[:MOST_LISTED]]
    notes = [f"The first {MOST_LISTED} of {len(files):,} files."] if len(files) > MOST_LISTED else []
    return table(["file", "records", f"{summary.unit}s"], rows) + _notes(notes)


def _notes(notes: list[str]) -> str:
    return "".join(f"<p class=note>{escape(note)}</p>" for note in notes)


def _grid(pictures: list[tuple[str, str]]) -> str:
    return f"<div class=grid>{''.join(_figure(svg, caption) for svg, caption in pictures)}</div>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
