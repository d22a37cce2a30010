"""The report of a run: one HTML page that needs nothing beside it, from what the run folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..config import Config, active_tasks, dump_config
from ..data.manifest import Manifest, locate_split, read_manifest
from ..data.mixture import as_paths
from ..data.storage import Url, is_folder, size
from ..errors import DataError
from .advice import advise
from .cost import cost, in_words
from .domains_section import domains
from .figures import FIRST, SECOND, Level, Series, curves, gains
from .page import PAGE
from .parts import figure, flatten, grid, short_count, table
from .recipe_section import recipe
from .run_folder import Run
from .statistics_section import statistics

MODEL = "this model"
OTHER_CURVES = {
    "learning_rate": "Learning rate", "grad_norm": "Gradient norm, before clipping", "tokens_per_s": "Tokens a second, all workers",
}
LINKED = ("config.yaml", "environment.json", "metrics.jsonl", "evaluation.json", "checkpoints", "logs")


def render(run: Run, *, link: str | None) -> str:
    """The page. `link` is the relative path from the page's folder to the run folder, None where no browser finds that: in a store."""
    evaluation, stages = run.evaluation, recipe(run)
    sections = [
        ("Result", _result(run, evaluation)),
        ("Advice", _advice(run)),
        ("Training", _training(run, evaluation, with_rate=stages is None)),
        ("Recipe", stages),
        ("Domains", domains(run)),
        ("Gradients, weights and activations", statistics(run)),
        ("Data", _data(run.config)),
        ("Environment", _environment(run)),
        ("Settings", f"<details><summary>All settings, as they ran</summary><pre>{escape(dump_config(run.config))}</pre></details>"),
        ("Files and next steps", _next(run, link, evaluation)),
    ]
    body = "\n".join(f"<section><h2>{escape(title)}</h2>\n{content}\n</section>" for title, content in sections if content is not None)
    head = {"title": run.config.model.name, "subtitle": _subtitle(run), "verdict": verdict(run, evaluation)}
    return PAGE.substitute({name: escape(text) for name, text in head.items()}, cards=_cards(run), body=body)


def verdict(run: Run, evaluation: Mapping[str, object] | None) -> str:
    """One sentence: what the model reaches on held-out data, and which baselines that beats."""
    if not evaluation:
        last = run.last("eval")
        known = f"; the last validation loss was {last['loss']:.4f} nats per token at step {last['step']:,}" if last else ""
        return f"Not evaluated on held-out data yet{known}."
    bits, by_name, unit = evaluation["bits_per_base"], evaluation["baselines"], _unit(run.config)
    if bits is None:
        accuracy = evaluation["metrics"].get("mlm_accuracy")
        what = f": {accuracy:.1%} of hidden bases are predicted right" if accuracy is not None else ""
        return f"Overlapping k-mers under a mask have no bits per base{what}."
    if not by_name:
        return f"{bits:.4f} bits per {unit} on held-out windows; there are no baselines to compare with."
    best = min(by_name, key=by_name.get)
    gap = by_name[best] - bits
    against = f"{abs(gap):.4f} {'below' if gap > 0 else 'above'} the best baseline, {label(best)} ({by_name[best]:.4f})"
    return f"{bits:.4f} bits per {unit} on held-out windows, {against}. The model beats {_beaten(evaluation['beats'], by_name)}."


def _beaten(beats: list[str | int], by_name: Mapping[str, float]) -> str:
    """Names of what was beaten, in words."""
    orders = [name for name in beats if isinstance(name, int)]
    flanks = [int(str(name).removeprefix("flanks_")) for name in beats if str(name).startswith("flanks_")]
    parts = ["uniform guessing"] if "uniform" in beats else []
    if orders:
        every = "every order from " if len(orders) == sum(name.startswith("markov_") for name in by_name) else "order "
        parts.append(f"Markov models of {every}{_ranges(orders)}")
    if flanks:
        parts.append(f"counting with k bases on either side for k = {_ranges(flanks)}")
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "no baseline yet"


def _ranges(orders: list[int]) -> str:
    """[0, 1, 2] -> 0 to 2, [0, 2] -> 0, 2."""
    if len(orders) > 2 and orders == list(range(orders[0], orders[-1] + 1)):
        return f"{orders[0]} to {orders[-1]}"
    return ", ".join(map(str, orders))


def label(name: str) -> str:
    """A baseline's name for readers."""
    kind, _, order = name.partition("_")
    return {"uniform": "uniform", "markov": f"Markov order {order}", "flanks": f"{order} left + {order} right"}[kind]


def _unit(cfg: Config) -> str:
    return "residue" if cfg.preprocessing.sequence_type == "protein" or cfg.tokenization.kind == "amino_acid" else "base"


def _subtitle(run: Run) -> str:
    objective = " and ".join(active_tasks(run.config.tasks)).replace("_", " ")
    parameters = run.last("start").get("parameters")
    size = f"{parameters:,} parameters, " if parameters else ""
    return f"{size}{objective}, mixers {' '.join(dict.fromkeys(run.config.model.mixers))}, {run.folder.name}"


def _cards(run: Run) -> str:
    """The few numbers to read first."""
    last, end, spent = run.last_step, run.last("end"), cost(run)
    costs = {f"{spent.device}-hours": f"{spent.hours:.3g}",
             f"tokens a {spent.device}-hour": short_count(spent.tokens_per_hour)} if spent else {}
    cards = {
        "optimizer steps": f"{last.get('step', 0):,}",
        "tokens": short_count(float(last.get("tokens") or 0)),
        "epochs": f"{float(last.get('epoch') or 0):.2f}",
        "tokens a second": short_count(_median(run.curve("train", "step", "tokens_per_s")[1])),
        **costs,
        "ended by": str(end.get("reason") or "not ended").replace("_", " "),
    }
    return "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for name, value in cards.items())


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _result(run: Run, evaluation: Mapping[str, object] | None) -> str:
    """The metrics, and the model among the baselines."""
    if not evaluation:
        return f"<p>Run <code>hyena-glt evaluate --model_path {escape(str(run.folder))}</code>, then this report again.</p>"
    facts = (
        f"Checkpoint of step {evaluation['step']:,}, {evaluation['rows']:,} windows and {evaluation['scored_tokens']:,} scored tokens "
        f"of {evaluation['data']}."
    )
    tables, picture = [table(["metric", "value"], [(name, f"{value:.4f}") for name, value in evaluation["metrics"].items()])], ""
    by_name: Mapping[str, float] = evaluation["baselines"]
    if by_name:
        bits, unit = evaluation["bits_per_base"], _unit(run.config)
        rows = {label(name): value for name, value in by_name.items()} | ({MODEL: bits} if bits is not None else {})
        ordered = sorted(rows.items(), key=lambda item: item[1])
        tables.append(table(["", f"bits per {unit}"], [(name, f"{value:.4f}") for name, value in ordered], highlight=MODEL))
        svg = gains(list(rows), list(rows.values()), by_name["uniform"], MODEL, unit=unit)
        picture = figure(svg, "The model among baselines that only count, on the same held-out bases. Labels: bits per " + unit)
    notes = "".join(f"<p class=note>{escape(note)}.</p>" for note in evaluation["notes"])
    return f"<p>{escape(facts)}</p><div class=grid><div class=stack>{''.join(tables)}</div>{picture}</div>{notes}"


def _advice(run: Run) -> str:
    """What stands out, with the settings to change."""
    found = advise(run.reports, run.config, run.plan())
    if not found:
        return "<p>Nothing stands out.</p>"
    return "<ul class=advice>" + "".join(f"<li>{escape(a.found)}: <strong>{escape(a.change)}</strong>.</li>" for a in found) + "</ul>"


def _training(run: Run, evaluation: Mapping[str, object] | None, *, with_rate: bool) -> str:
    """The curves, a picture each, and what they cost; the rate's stands in the recipe where there is one."""
    in_bits = bool(run.curve("train", "step", "bits_per_base")[0])
    key, y_label = ("bits_per_base", f"bits per {_unit(run.config)}") if in_bits else ("loss", "nats per token")
    levels = _levels(evaluation) if in_bits else []
    pictures = []
    for x, x_label, log_x in (("step", "optimizer steps", False), ("tokens", "tokens", True)):
        series = [Series("training", *run.curve("train", x, key)), Series("validation", *run.curve("eval", x, key), SECOND, dots=True)]
        pictures.append((curves(_filled(series), x_label=x_label, y_label=y_label, levels=levels, log_x=log_x), f"Loss over {x_label}"))
    for y, caption in OTHER_CURVES.items() if with_rate else list(OTHER_CURVES.items())[1:]:
        series = _filled([Series("", *run.curve("train", "step", y), FIRST)])
        if series:
            pictures.append((curves(series, x_label="optimizer steps", y_label="", from_zero=True), caption))
    warnings = [f"Warning: {report['message']}" for report in run.reports if report["kind"] == "warning"]
    if "masked_lm" in active_tasks(run.config.tasks):
        warnings.insert(0, "The training loss counts some predicted tokens that were left in sight (80/10/10), so it reads lower; "
                           "validation hides them all, and only it can be compared with the baselines.")
    listed = "".join(f"<p class=note>{escape(message)}</p>" for message in warnings)
    spent = cost(run)
    words = f"<p>{escape(in_words(spent))}</p>" if spent else ""
    return f"{words}{grid(pictures)}{listed}"


def _filled(series: Iterable[Series]) -> list[Series]:
    return [line for line in series if len(line.x)]


def _levels(evaluation: Mapping[str, object] | None) -> list[Level]:
    """Uniform and the best baseline as lines to compare with."""
    by_name: Mapping[str, float] = evaluation["baselines"] if evaluation else {}
    if not by_name:
        return []
    best = min(by_name, key=by_name.get)
    return [Level("uniform", by_name["uniform"])] + ([Level(label(best), by_name[best])] if best != "uniform" else [])


def _data(cfg: Config) -> str:
    """Inputs, splits and drops, from the manifest of each dataset that was trained on."""
    return "".join(_of_dataset(path, _unit(cfg)) for path in as_paths(cfg.data.train_path))


def _of_dataset(path: str, unit: str) -> str:
    try:
        return _data_tables(read_manifest(locate_split(path, "train")[0]), unit)
    except DataError as error:
        return f"<p class=note>The training data cannot be described: {escape(str(error))}</p>"


def _data_tables(manifest: Manifest, unit: str) -> str:
    files = table(["input", "records", f"{unit}s"], [(Path(f.path).name, f"{f.records:,}", f"{f.bases:,}") for f in manifest.inputs])
    splits = table(["split", "windows", "tokens", f"{unit}s"], [
        (name, f"{split.rows:,}", f"{split.tokens:,}", f"{split.bases:,}")
        for name in ("train", "val", "test") if (split := manifest.splits.get(name))
    ])
    dropped = table(["dropped", "windows or records", f"{unit}s"], [
        (reason, f"{counts.get('windows', counts.get('records', 0)):,}", f"{counts.get('bases', 0):,}")
        for reason, counts in sorted(manifest.dropped.items())
    ]) if manifest.dropped else "<p>Nothing was dropped.</p>"
    return f"<div class=grid><div>{files}</div><div>{splits}</div><div>{dropped}</div></div>"


def _environment(run: Run) -> str:
    if not run.environment:
        return "<p class=note>The run folder has no environment.json.</p>"
    return table(["", ""], [(name, value) for name, value in flatten(run.environment)])


def _linked(to: str, name: str) -> str:
    return f'<a href="{quote(to)}">{name}</a>'


def _next(run: Run, link: str | None, evaluation: Mapping[str, object] | None) -> str:
    """Links to what lies in the run folder, and commands to go on with."""
    there = [name for name in LINKED if size(run.folder / name) is not None or is_folder(run.folder / name)]
    links = "".join(f"<li>{name if link is None else _linked(f'{link}/{name}', name)}</li>" for name in there)
    folder = str(run.folder)
    config = f"config.yaml  # a copy of {folder}/config.yaml;" if isinstance(run.folder, Url) else f"{folder}/config.yaml  #"
    commands = [
        f"hyena-glt evaluate --model_path {folder}" + (" --metrics bleu" if evaluation else ""),
        f"hyena-glt pretrain {config} goes on where the run stands; add training.max_steps=N for a longer one",
    ]
    if "logs" in there:
        commands.append(f"tensorboard --logdir {folder}/logs")
    return f"<ul>{links}</ul><pre>{escape(chr(10).join(commands))}</pre>"
