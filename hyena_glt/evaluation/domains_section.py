"""The domains of a mixture, each by itself: what was drawn from it, and how well it is predicted."""

from __future__ import annotations

from .figures import COLOURS, Series, curves
from .parts import grid, share, short_count, table
from .run_folder import Run


def domains(run: Run) -> str | None:
    """The section; None for a single dataset."""
    names = _names(run)
    if not names:
        return None
    in_bits = any(run.curve("eval", "step", f"bits_per_base/{name}")[0] for name in names)
    key, unit = ("bits_per_base", "bits per base") if in_bits else ("loss", "nats per token")
    pictures = [
        (_picture(run, names, "eval", key, unit), "Validation loss by domain"),
        (_picture(run, names, "train", "tokens", "tokens"), "Tokens drawn from each domain"),
    ]
    return grid((svg, caption) for svg, caption in pictures if svg) + _table(run, names, key, unit)


def _names(run: Run) -> list[str]:
    """The domains that any report names, in their order."""
    found = dict.fromkeys(key.partition("/")[2] for kind in ("train", "eval") for report in run.reports if report["kind"] == kind
                          for key in report if key.startswith(("tokens/", "loss/")))
    return list(found)


def _picture(run: Run, names: list[str], kind: str, key: str, y_label: str) -> str | None:
    """A line for each domain that has the figure."""
    lines = [
        Series(name, *run.curve(kind, "step", f"{key}/{name}"), COLOURS[number % len(COLOURS)], dots=kind == "eval")
        for number, name in enumerate(names)
    ]
    lines = [line for line in lines if len(line.x)]
    return curves(lines, x_label="optimizer steps", y_label=y_label, from_zero=key == "tokens") if lines else None


def _table(run: Run, names: list[str], key: str, unit: str) -> str:
    """What stands at the end, and the best of each domain."""
    train = run.last("train")
    tokens = {name: train.get(f"tokens/{name}", 0) for name in names}
    total = sum(tokens.values()) or 1
    rows = [
        (name, short_count(number), share(number / total), *_last_and_best(run, f"{key}/{name}")) for name, number in tokens.items()
    ]
    return table(["domain", "tokens", "share", f"last {unit}", f"best {unit}"], rows)


def _last_and_best(run: Run, key: str) -> tuple[str, str]:
    steps, values = run.curve("eval", "step", key)
    if not values:
        return "", ""
    best, step = min(zip(values, steps, strict=True))
    return f"{values[-1]:.4f}", f"{best:.4f} at step {step:,.0f}"
