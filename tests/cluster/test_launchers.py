"""The files of Ray's cluster launcher: they fit its schema, nodes stand behind closed doors, on-demand nodes stand in for spot ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray

from tests.cluster.shipped_files import LAUNCHERS, read_yaml
from tests.waiting import HANG_S, wait_until

SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
CLOUDS = [path for path in LAUNCHERS if path.name != "onprem.yaml"]
by_name = {"ids": lambda path: path.name}


def is_spot(node_config: dict[str, Any]) -> bool:
    """Whether the cloud may take the node back."""
    market = node_config.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("path", LAUNCHERS, **by_name)
def test_it_fits_the_schema(path: Path) -> None:
    jsonschema.validate(read_yaml(path), SCHEMA)


def test_the_schema_refuses_a_misspelt_setting() -> None:
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuets"):
        jsonschema.validate(read_yaml(LAUNCHERS[0]) | {"idle_timeout_minuets": 5}, SCHEMA)


@pytest.mark.parametrize("path", LAUNCHERS, **by_name)
def test_the_head_keeps_its_dashboard_to_itself_and_takes_a_token(path: Path) -> None:
    """Both start lists are given, because Ray's defaults open the dashboard to every address."""
    config = read_yaml(path)
    [head] = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    assert "--head" in head and "--dashboard-host=127.0.0.1" in head
    assert all("--dashboard-host" not in line for line in config["worker_start_ray_commands"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert all(config[name] == [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands"))  # defaults install Ray


@pytest.mark.parametrize("path", CLOUDS, **by_name)
def test_nodes_have_no_public_address(path: Path) -> None:
    config = read_yaml(path)
    assert config["provider"]["use_internal_ips"] is True
    assert "security_group" not in config["provider"]  # Ray would add a rule of its own that opens port 22
    for kind in config["available_node_types"].values():
        node = kind["node_config"]
        if config["provider"]["type"] == "aws":
            assert node["SecurityGroupIds"] and node["SubnetIds"]
            assert node["MetadataOptions"] == {"HttpTokens": "required"}, "a forged request must not read the role's keys"
        else:
            assert all("accessConfigs" not in interface for interface in node["networkInterfaces"])


@pytest.mark.parametrize("path", CLOUDS, **by_name)
def test_on_demand_nodes_stand_in_for_spot_nodes(path: Path) -> None:
    config = read_yaml(path)
    kinds = config["available_node_types"]
    head = kinds[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0} and not is_spot(head["node_config"])
    for pool in ("cpu", "gpu"):
        spot, on_demand = kinds[f"{pool}_spot"], kinds[f"{pool}_on_demand"]
        assert is_spot(spot["node_config"]) and not is_spot(on_demand["node_config"])
        assert spot["priority"] > on_demand["priority"]
        assert spot["resources"] == on_demand["resources"]  # the priority decides between types that are used equally well
        assert ("GPU" in spot["resources"]) == (pool == "gpu")
        machine = "InstanceType" if config["provider"]["type"] == "aws" else "machineType"
        assert spot["node_config"][machine] == on_demand["node_config"][machine]
    assert sum(kind.get("max_workers", 0) for kind in kinds.values()) >= config["max_workers"]


@pytest.mark.parametrize("path", CLOUDS, **by_name)
def test_preprocessing_leaves_no_room_for_gpu_nodes_that_it_would_not_use(path: Path) -> None:
    """Ray takes them for tasks of CPUs too, once no type without a GPU may have another node."""
    config = read_yaml(path)
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    assert sum(kind["max_workers"] for kind in workers if "GPU" not in kind["resources"]) >= config["max_workers"]


@pytest.mark.parametrize("path", CLOUDS, **by_name)
def test_each_worker_has_one_watcher_of_spot_notices(path: Path, tmp_path: Path) -> None:
    """The file's own line, with a stand-in for the watcher: it starts behind Ray, outlives its shell, and is not started twice."""
    config = read_yaml(path)
    *_, start, line = config["worker_start_ray_commands"]
    assert "ray start --address" in start and "cluster.spot" not in " ".join(config["head_start_ray_commands"])
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\nuntil [ -e ~/end ]; do sleep 0.1; done\n')
    python.chmod(0o755)
    said, environment = tmp_path / "spot.log", {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def begin() -> None:
        done = subprocess.run(["bash", "-c", f"({line})"], env=environment, capture_output=True, timeout=HANG_S)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    def is_held() -> bool:
        return subprocess.run(["flock", "--nonblock", said, "true"]).returncode == 1

    try:
        begin()
        wait_until(lambda: said.exists() and said.read_text(), within_s=20)
        begin()
        assert is_held()
    finally:
        (tmp_path / "end").touch()
    wait_until(lambda: not is_held(), within_s=20)
    assert said.read_text() == f"-m cluster.spot --cloud {config['provider']['type']}\n"


def test_what_is_to_be_filled_in_stands_in_capitals() -> None:
    for path in CLOUDS:
        text = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.lstrip().startswith("#"))
        assert not re.search(r"\b(ami|sg|subnet|fs|vpc)-[0-9a-f]{8,}|@[\w-]+\.iam\.", text)
