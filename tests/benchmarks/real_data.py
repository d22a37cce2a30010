"""Write results/real_data.md from runs of `make ecoli`, `make ecoli-masked` and `make protein`: what came out, how long it took.

    python tests/benchmarks/real_data.py runs/ecoli runs/ecoli_masked runs/protein
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hyena_glt.config import load_config
from hyena_glt.training.metrics import METRICS_FILE, read_reports

RESULTS = Path(__file__).parent / "results" / "real_data.md"
HEAD = """# Real genomes and proteins on two CPU cores

Windows of the E. coli split overlap by half, so most held-out bases are scored at two places. Masked: all predicted
tokens are hidden when validating and evaluating, a tenth of them are in sight in the training figure.
"""
NAMES = {"ecoli": "make ecoli", "ecoli_masked": "make ecoli-masked", "protein": "make protein"}


def section(run: Path) -> str:
    """One run: command, machine, result beside the baselines, and its log thinned out."""
    cfg, environment = load_config(run / "config.yaml"), json.loads((run / "environment.json").read_text())
    evaluation = json.loads((run / "evaluation.json").read_text())[-1]
    reports = read_reports(run / METRICS_FILE)
    start, end = reports[0], reports[-1]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    baselines = ", ".join(f"{name} {bits:.4f}" for name, bits in evaluation["baselines"].items())
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in evaluation["metrics"].items())
    log = [r for r in reports if r["kind"] == "eval" or (r["kind"] == "train" and r["step"] % 200 == 0)]
    rows = [f"| {r['step']:,} | {r['tokens']:,} | {r['elapsed_s']:.0f} | {r['kind']} | {r['bits_per_base']:.4f} |" for r in log]
    return "\n".join([
        f"## `{NAMES[cfg.model.name]}`\n",
        f"{start['parameters']:,} parameters, {end['tokens']:,} tokens in {end['elapsed_s'] / 60:.1f} minutes of training "
        f"on {start['world_size']} workers ({environment['cpu']}, {versions}, commit {environment['commit'] or 'unknown'}).\n",
        f"Held out ({evaluation['scored_tokens']:,} scored tokens): **{evaluation['bits_per_base']:.4f} bits per base**; {metrics}.\n",
        f"Baselines on the same split, bits per base: {baselines}.\n",
        "| step | tokens | seconds | | bits per base |", "|---|---|---|---|---|", *rows, "",
    ])


if __name__ == "__main__":
    RESULTS.write_text("\n".join([HEAD, *(section(Path(run)) for run in sys.argv[1:])]))
