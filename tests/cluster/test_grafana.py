"""The Grafana dashboard shows what the workers report, all of it and nothing else."""

from __future__ import annotations

import json
import re

from hyena_glt.training.gauges import GAUGES
from tests.cluster.shipped_files import CLUSTER

DASHBOARD = json.loads((CLUSTER / "grafana.json").read_text())


def test_each_figure_has_a_panel_and_each_panel_a_figure() -> None:
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    shown = [re.fullmatch(r"""ray_hyena_glt_(\w+)\{run=~"\$run"(?:, rank="0")?\}""", query)[1] for query in queries]
    assert sorted(shown) == sorted(GAUGES)


def test_panels_stand_side_by_side() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert [(place["x"], place["y"]) for place in places] == [(12 * (n % 2), 8 * (n // 2)) for n in range(len(places))]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def test_runs_are_chosen_by_their_label() -> None:
    [run] = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "run"]
    assert run["query"]["query"] == "label_values(ray_hyena_glt_step, run)" and run["multi"]
