"""What a new token costs behind prompts of several lengths, by the kinds of mixers, and what reading the whole prompt again would cost.

    python tests/benchmarks/decoding.py [--contexts 1024 8192 131072] [--mixers se-mr-li attention] [--hidden_size 256] [--layers 8]

Random weights and bases, one row, fp32; the mean over the new tokens, because `hyena` adds up tiles of its inputs now and then.
"Again" is one pass over the prompt, which a token without a state would cost. Rows go to decoding.{json,md} below --out.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from page import cpu_name, own_command, write_report  # noqa: E402

from hyena_glt.config.tree import ModelConfig  # noqa: E402
from hyena_glt.model import LanguageModel, build_model  # noqa: E402
from hyena_glt.model.decoding import Decoder  # noqa: E402

RESULTS = Path(__file__).parent / "results"
WARM_UP = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One pattern behind one prompt."""

    mixers: str
    context: int
    read_s: float
    """The prompt, with the states that the next token needs."""
    again_s: float
    """One pass over as many tokens, without them."""
    token_ms: float
    """A new token, the mean."""


def seconds(device: torch.device, act: Callable[[], object]) -> float:
    """Wall time, the device's work included."""
    _wait(device)
    began = time.monotonic()
    act()
    _wait(device)
    return time.monotonic() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def measure(model: LanguageModel, mixers: str, context: int, tokens: int, device: torch.device) -> Row:
    """Read a prompt, then so many tokens one after the other."""
    ids = torch.randint(5, 9, (1, context + WARM_UP + tokens), device=device)
    prompt, rest = ids[:, :context], ids[:, context:].split(1, 1)
    model.logits(model.hidden(prompt)[:, -1])  # kernels chosen, memory taken
    again_s = seconds(device, lambda: model.logits(model.hidden(prompt)[:, -1]))
    decoder = Decoder(model, ids.shape[1])
    read_s = seconds(device, lambda: decoder.read(prompt))
    for one in rest[:WARM_UP]:
        decoder.read(one)
    token_s = seconds(device, lambda: [decoder.read(one) for one in rest[WARM_UP:]])
    return Row(mixers, context, read_s, again_s, 1000 * token_s / tokens)


def write(report: dict, rows: list[Row], out: Path) -> None:
    """The rows as JSON and as a page."""
    text = [
        "# A new token behind a long prompt\n", f"`{report['command']}`\non {report['machine']}; python {platform.python_version()}, torch "
        f"{torch.__version__}; {report['parameters']}; load average before: {report['load']:.1f}.\n",
        "\n".join(str(__doc__).splitlines()[4:]).strip(), "",
        "| mixers | prompt, tokens | read once, s | a new token, ms | against the shortest prompt | again, against a new token |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        shortest = next(other for other in rows if other.mixers == row.mixers)
        text.append(
            f"| `{row.mixers}` | {row.context:,} | {row.read_s:.2f} | {row.token_ms:.2f} | {row.token_ms / shortest.token_ms:.2f}x | "
            f"{1000 * row.again_s / row.token_ms:,.0f}x |"
        )
    write_report(out, "decoding", report | {"rows": [asdict(row) for row in rows]}, "\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 8192, 131072])
    parser.add_argument("--mixers", nargs="+", default=["se-mr-li", "hyena", "attention"], help="patterns, kinds joined by -")
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = f"{torch.cuda.get_device_name(device)}, {cpu_name()}" if device.type == "cuda" else f"{cpu_name()}, {args.threads} threads"
    load, rows = os.getloadavg()[0], []
    for mixers in args.mixers:
        torch.manual_seed(0)
        shape = ModelConfig(
            mixers=tuple(mixers.split("-")), hidden_size=args.hidden_size, num_layers=args.layers,
            max_position_embeddings=max(args.contexts) + WARM_UP + args.tokens,
        )
        model = build_model(shape, vocab_size=4, causal=True).to(device).eval()
        for context in sorted(args.contexts):
            rows.append(measure(model, mixers, context, args.tokens, device))
            print(rows[-1], flush=True)
    parameters = f"width {args.hidden_size}, {args.layers} layers, {args.tokens} new tokens, vocabulary of 4"
    write({"command": own_command(), "machine": machine, "parameters": parameters, "load": load}, rows, args.out)


if __name__ == "__main__":
    main()
