"""`make quickstart`: two phage genomes in, a pretrained and evaluated model and its report out. Runs on the driver."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from hyena_glt import HyenaError, evaluate, load_config, preprocess, pretrain, report

GENOMES = Path(__file__).parent / "genomes"


def quickstart(folder: Path) -> dict[str, object]:
    """Preprocess, pretrain, evaluate and report below `folder`; started again, it goes on where it was."""
    cfg = load_config("quickstart.yaml", [
        f"preprocessing.input_path={GENOMES}", f"output.path={folder / 'data'}", f"data.train_path={folder / 'data'}",
        f"training.output_dir={folder / 'run'}",
    ])
    _say("1/4  FASTA -> tokenized Parquet (Ray Data)")
    data = preprocess(cfg)
    _say("2/4  pretraining: two workers, DeepSpeed ZeRO 1 (Ray Train)")
    run = pretrain(cfg)
    _say("3/4  evaluation on held-out windows, beside Markov models")
    result = evaluate(str(folder / "run"))
    _say("4/4  report")
    page = report(str(folder / "run"), output_dir=str(folder / "report"))
    return {"data": data, "run": run, "evaluation": result, "report": page}


def summary(folder: Path, results: dict) -> str:
    """What came out, where everything lies, and what to try next."""
    run, result = results["run"], results["evaluation"]
    beats = ", ".join(str(name) for name in result["beats"]) or "none"
    return f"""
    training loss     {run["train_bits_per_base"]:.3f} bits per base
    held out          {result["bits_per_base"]:.3f} bits per base (uniform: 2.000)
    beats             {beats}

    data              {folder / "data"}
    run               {folder / "run"}   (metrics.jsonl, checkpoints/, logs/ for TensorBoard)
    report            {folder / "report" / "report.html"}

Next, your own genome:
    .venv/bin/hyena-glt preprocess quickstart.yaml --input GENOME.fa --output data/mine
    .venv/bin/hyena-glt pretrain quickstart.yaml data.train_path=data/mine --output_dir runs/mine
"""


def _say(line: str) -> None:
    print(f"\n== {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Exit status 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/quickstart"), help="where everything goes")
    folder = parser.parse_args().output_dir
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(summary(folder, quickstart(folder)))
    except HyenaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
