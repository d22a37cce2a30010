"""Disturb a training run with faults at moments drawn from a seed, and compare its last weights with those of a run that nothing disturbed.

    python -m tests.faults.run [--faults 11] [--campaigns 1] [--at-once 1] [--seed 0] [--range] [--only kill_a_worker] [--log FILE]

The faults are shared out to campaigns, each a training run under a seed of its own: the first under that of --seed. Two cores carry one
at a time. A campaign's seed modulo 4 is its ZeRO stage. In a campaign each kind of fault comes once before any comes again. Every fault
must leave a run that goes on from its last checkpoint by itself or, where the command or the head was lost or the run stopped with a
sentence, by the same command; the last weights must be equal bit for bit. With --range a run takes as many workers as there is room for
at each start, and grows; its last weights must be equal within 1e-5. Each node is a machine of namespaces where this runs as root
on Linux; elsewhere they stand side by side on loopback, and the faults that need a network or disk of their own are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from safetensors.numpy import load

from hyena_glt.training.checkpoint import WEIGHTS_FILE, resolve_checkpoint
from tests.cluster.machines import Switch, why_none
from tests.faults.campaign import CLOSE, FOR_RANGE, RANGE, SAVE_INTERVAL, STEPS_PER_FAULT, WORKERS, Campaign, on, settings
from tests.faults.inject import FAULTS, NEED_MACHINES, TRAINED_ON
from tests.faults.loopback import Loopback
from tests.tiny_run import write_lambda_data
from tests.training.worlds import begin, run_world


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault cost."""

    name: str
    detail: str
    logged: int
    """The last step that was logged when it struck."""
    saved: int
    """The newest checkpoint then."""
    from_step: int | None
    """Where the run started again; None where it trained on."""
    recovery_s: float
    """Until the next checkpoint."""

    def __str__(self) -> str:
        lost = "trained on" if self.from_step is None else f"went on from step {self.from_step}"
        what = f"{self.name} {self.detail}".strip()
        return f"{what}: at step {self.logged}, with {self.saved} saved; {lost}; next checkpoint after {self.recovery_s:.1f} s"


def main() -> None:
    """Run the campaigns; exit 1 where a fault lost or changed anything."""
    args = _parse()
    if reason := why_none():
        print(f"without {', '.join(NEED_MACHINES)}: {reason}")
    with ProcessPoolExecutor(args.at_once) as pool:
        shares = (len(range(number, args.faults, args.campaigns)) for number in range(args.campaigns))
        running = [pool.submit(report, faults, args.seed + number, args.only, args.range) for number, faults in enumerate(shares)]
    reports = [one.result() for one in running]
    if args.log:
        args.log.write_text("".join(f"{line}\n" for _, lines in reports for line in lines))
    sys.exit(0 if all(held for held, _ in reports) else 1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=len(FAULTS))
    parser.add_argument("--campaigns", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--range", action="store_true")
    parser.add_argument("--only", choices=FAULTS, action="append")
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    if not 1 <= args.campaigns <= args.faults:
        parser.error(f"--campaigns: {args.faults} faults make 1 to {args.faults} campaigns, not {args.campaigns}")
    return args


def report(faults: int, seed: int, only: list[str] | None, ranged: bool) -> tuple[bool, list[str]]:
    """Whether the run of a campaign came through, and the lines that a log has of it; the verdict is printed at once."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        try:
            outcomes = run_campaign(Path(folder), faults=faults, seed=seed, only=only, ranged=ranged)
        except Exception:
            verdict = f"seed {seed}: FAILED\n{traceback.format_exc()}"
            print(verdict, flush=True)
            return False, verdict.splitlines()
    verdict = f"seed {seed}: {faults} faults, and the last weights are equal{f' within {CLOSE:g}, on a range of workers' if ranged else ''}"
    print(verdict, flush=True)
    return True, [verdict, *(f"  {outcome}" for outcome in outcomes)]


def run_campaign(folder: Path, *, faults: int, seed: int, only: list[str] | None = None, ranged: bool = False) -> list[Outcome]:
    """What each fault cost; AssertionError where one was lost, or the last weights are not those of a run without faults."""
    data, rng = write_lambda_data(folder / "data", {"kind": "char"}, max_length=128), Random(seed)
    steps = STEPS_PER_FAULT * (faults + 1)
    given = settings(steps, f"hardware.zero_stage={seed % 4}", *(FOR_RANGE if ranged else ()))
    wanted = _weights(undisturbed(folder / "undisturbed", [*given, *on(data)]))
    given = settings(steps, *given, *RANGE) if ranged else given
    compare = require_close if ranged else require_equal
    names = [name for name in only or FAULTS if why_none() is None or name not in NEED_MACHINES]
    with make_switch(folder) as switch, Campaign(folder / "cluster", data, given, rng, switch) as campaign:
        campaign.wait_for_checkpoint(after=SAVE_INTERVAL)  # there must be one more before that which may be damaged
        outcomes = []
        for name in _order(faults, rng, names):
            outcomes.append(strike(campaign, name))
            print(f"seed {seed}: {outcomes[-1]}", flush=True)
        status = campaign.finish()
        assert status == 0, campaign.said[-3000:]
        compare(_weights(campaign.run), wanted)
        return outcomes


def make_switch(folder: Path) -> Switch | Loopback:
    """Machines where there can be some."""
    return Switch() if why_none() is None else Loopback(folder)


def undisturbed(run: Path, given: list[str]) -> Path:
    """The folder of the same run without a cluster, which nothing disturbs."""
    run_world(WORKERS, given, begin(run), timeout_s=600)
    return run


def _weights(run: Path) -> bytes:
    """The file of the last ones."""
    return (resolve_checkpoint(run / "checkpoints" / "latest") / WEIGHTS_FILE).read_bytes()


def require_equal(found: bytes, wanted: bytes) -> None:
    """AssertionError where a bit of the last weights differs from those of a run without faults."""
    assert found == wanted, "the last weights are not those of a run without faults"


def require_close(found: bytes, wanted: bytes) -> None:
    """The same where a number is further away than CLOSE."""
    here, there = load(found), load(wanted)
    assert here.keys() == there.keys()
    for name, values in there.items():
        np.testing.assert_allclose(here[name], values, rtol=0, atol=CLOSE, equal_nan=False, err_msg=name)


def _order(faults: int, rng: Random, names: list[str]) -> Iterator[str]:
    while faults > 0:
        rng.shuffle(names)
        yield from names[:faults]
        faults -= len(names)


def strike(campaign: Campaign, name: str) -> Outcome:
    """Do one fault at a random moment, put the cluster right, and wait for the next checkpoint."""
    campaign.run_on(campaign.rng.randint(SAVE_INTERVAL // 5, 3 * SAVE_INTERVAL // 2))
    campaign.wait_for_all_workers()
    logged, saved, starts, began = campaign.last_step(), campaign.saved(), len(campaign.starts()), time.monotonic()
    detail = FAULTS[name](campaign)
    campaign.put_right()
    from_step = None if name in TRAINED_ON else campaign.wait_for_start(starts)
    campaign.wait_for_checkpoint(after=max(saved, from_step or 0))
    outcome = Outcome(name, detail, logged, saved, from_step, time.monotonic() - began)
    if from_step is None:
        assert len(campaign.starts()) == starts, outcome
        return outcome
    # What is withdrawn saves and logs its last step; every other fault may cost what was trained since the last checkpoint.
    least = {"damage_a_shard": saved - SAVE_INTERVAL, "withdraw_a_node": campaign.last_step_before(starts)}.get(name, saved)
    assert from_step >= max(1, least), outcome
    return outcome


if __name__ == "__main__":
    main()
