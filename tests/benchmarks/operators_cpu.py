"""Tokens per second of each mixer, forward and backward, at a short and a long sequence on one CPU thread.

    python tests/benchmarks/operators_cpu.py [--repetitions 7]

Prints a JSON line for each mixer and length, and writes them with the machine and the command to results/operators_cpu.{json,md}.
Both lengths process the same number of tokens. All cases take turns within each repetition, so that other load on the machine
meets them alike, and medians are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from page import cpu_name, write_report
from torch import nn

from hyena_glt.config.tree import ModelConfig
from hyena_glt.model import build_model

RESULTS = Path(__file__).parent / "results"
WIDTH, SHORT, LONG = 128, 1024, 65536
# Attention at the long length would take minutes a step.
CASES = [(kind, length) for kind in ("se", "mr", "li", "hyena") for length in (SHORT, LONG)] + [("attention", SHORT)]


def build_mixer(kind: str, length: int) -> nn.Module:
    """A causal mixer of one layer."""
    torch.manual_seed(0)
    cfg = ModelConfig(hidden_size=WIDTH, num_layers=1, num_attention_heads=4, mixers=(kind,), max_position_embeddings=length)
    return build_model(cfg, vocab_size=4, causal=True).backbone.blocks[0].mixer


def step_seconds(mixer: nn.Module, x: torch.Tensor) -> float:
    """Wall time of one forward and backward pass, input gradient included."""
    started = time.perf_counter()
    mixer(x).backward(x.detach())
    return time.perf_counter() - started


def measure(repetitions: int) -> list[dict[str, str | int | float]]:
    """A row for each case: mixer, length, tokens a step, and the median of `repetitions` tokens/s."""
    mixers = {case: build_mixer(*case) for case in CASES}
    inputs = {length: torch.randn(LONG // length, length, WIDTH, requires_grad=True) for length in (SHORT, LONG)}
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
    for repetition in range(repetitions + 1):
        for case, mixer in mixers.items():
            elapsed = step_seconds(mixer, inputs[case[1]])
            if repetition > 0:  # the first pass only warms up
                seconds[case].append(elapsed)
    return [
        {"mixer": kind, "length": length, "tokens_per_step": LONG, "tokens_per_s": round(LONG / statistics.median(times))}
        for (kind, length), times in seconds.items()
    ]


def markdown(report: dict) -> str:
    """The rows as a table, 1k beside 64k."""
    rates = {(row["mixer"], row["length"]): row["tokens_per_s"] for row in report["rows"]}
    lines = [f"# Mixers on one CPU thread\n\n`{report['command']}` on {report['machine']}, torch {report['torch']}.",
             f"Forward and backward of one causal mixer, width {WIDTH}, fp32, {LONG:,} tokens a step, medians.\n",
             "| mixer | tokens/s at 1k | tokens/s at 64k | 64k / 1k |", "|---|---|---|---|"]
    for kind in dict(CASES):
        short, long = rates[kind, SHORT], rates.get((kind, LONG))
        lines.append(f"| {kind} | {short:,} | {long:,} | {long / short:.2f} |" if long else f"| {kind} | {short:,} | - | - |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    rows = measure(repetitions)
    print("\n".join(json.dumps(row) for row in rows))
    report = {"command": f"python tests/benchmarks/operators_cpu.py --repetitions {repetitions}",
              "machine": cpu_name(), "torch": torch.__version__, "repetitions": repetitions, "rows": rows}
    write_report(RESULTS, "operators_cpu", report, markdown(report))


if __name__ == "__main__":
    main()
