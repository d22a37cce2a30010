"""A run with a range of workers takes those that there are at each start; its losses are those of a run that nothing disturbs."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.faults.campaign import CLOSE, RANGE, Campaign, on, settings
from tests.faults.run import make_switch, undisturbed
from tests.tiny_run import write_lambda_data
from tests.training.in_process import losses

STEPS = 400
"""The run has not ended when a third machine comes."""


@pytest.mark.long
def test_workers_go_and_come_with_the_nodes(tmp_path: Path) -> None:
    data = write_lambda_data(tmp_path / "data", {"kind": "char"}, max_length=128)
    given = settings(
        STEPS, "model.dropout=0", "training.learning_rate=1e-3",  # rounding grows slowly
        "logging.log_interval=1",
    )
    whole = undisturbed(tmp_path / "whole", [*given, *on(data)])
    ranged = settings(STEPS, *given, *RANGE)
    with make_switch(tmp_path) as switch, Campaign(tmp_path / "cluster", data, ranged, Random(0), switch) as campaign:
        campaign.wait_for_checkpoint(after=0)
        campaign.switch_off(campaign.nodes[0])
        campaign.wait_for_start(1)
        campaign.put_right()
        campaign.wait_for_start(2)
        assert campaign.finish() == 0, campaign.said[-3000:]
        assert sizes(campaign) == [2, 1, 2]
        assert all(start["global_rows"] == 8 for start in campaign.starts())
        reports = [report for report in campaign.reports() if report["kind"] in ("start", "train")]
        third = [number for number, report in enumerate(reports) if report["kind"] == "start"][2]
        assert reports[third]["step"] == reports[third - 1]["step"], "work was lost"
        last = {report["step"]: report["loss"] for report in reports if report["kind"] == "train"}
    assert list(last.values()) == pytest.approx(losses(whole), abs=CLOSE)


def sizes(campaign: Campaign) -> list[int]:
    """How many workers each start of the run had."""
    return [start["world_size"] for start in campaign.starts()]
