"""The faults: each is done to a campaign at a moment, and says what it did; `Campaign.put_right` comes after it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from hyena_glt.training.checkpoint import OPTIMIZER_FOLDER, newest_whole
from tests.cluster.machines import Host, Machine, Switch
from tests.faults.campaign import Campaign
from tests.waiting import HANG_S, wait_until

WITHDRAWAL_S = 30.0
"""As long as Ray keeps a node after SIGTERM, and a cloud a spot machine after its notice."""


def kill_a_worker(campaign: Campaign) -> str:
    """One training process ends with SIGKILL."""
    worker = campaign.rng.choice(campaign.workers())
    worker.send_signal(signal.SIGKILL)
    return ""


def kill_a_raylet(campaign: Campaign) -> str:
    """The process that runs a node ends with SIGKILL; its machine goes with it."""
    machine = _node(campaign)
    for raylet in machine.processes("/raylet/raylet"):
        raylet.send_signal(signal.SIGKILL)
    time.sleep(1)
    campaign.switch_off(machine)
    return f"at {machine.address}"


def lose_a_node(campaign: Campaign) -> str:
    """A machine loses its power."""
    machine = _node(campaign)
    campaign.switch_off(machine)
    return machine.address


def cut_a_node_off(campaign: Campaign) -> str:
    """A machine loses its cable; its processes go on and know nothing of it."""
    machine, count = _node(campaign), campaign.said.count("a worker was lost")
    assert isinstance(campaign.switch, Switch) and isinstance(machine, Machine)
    campaign.switch.cut_off(machine)
    campaign.wait_until_said("a worker was lost", count=count + 1)
    campaign.switch_off(machine)
    return machine.address


def restart_the_head(campaign: Campaign) -> str:
    """The machine with the head and the user's command loses its power, and all nodes with it."""
    campaign.switch_off(campaign.head)
    campaign.command.wait(HANG_S)
    return "and the command on it"


def withdraw_a_node(campaign: Campaign) -> str:
    """A spot machine gets its notice, SIGTERM to `ray start --block`, and is gone when the time is up, whatever it has done by then."""
    machine = _node(campaign)
    (command,) = machine.processes("ray start --node-ip-address")
    command.send_signal(signal.SIGTERM)
    time.sleep(WITHDRAWAL_S)
    campaign.switch_off(machine)
    return machine.address


def kill_the_command(campaign: Campaign) -> str:
    """The user's command ends with SIGKILL."""
    for process in campaign.head.processes("hyena_glt.cli"):
        process.send_signal(signal.SIGKILL)
    campaign.command.wait(HANG_S)
    return ""


def fill_the_disk(campaign: Campaign) -> str:
    """Nothing can be written for some seconds."""
    seconds = campaign.rng.uniform(1, 6)
    ballast = campaign.fill_disk()
    time.sleep(seconds)
    ballast.unlink()
    return f"for {seconds:.1f} s"


def take_the_storage_away(campaign: Campaign) -> str:
    """Nothing of the run can be found for some seconds."""
    seconds = campaign.rng.uniform(1, 6)
    campaign.take_storage_away()
    time.sleep(seconds)
    campaign.give_back_storage()
    return f"for {seconds:.1f} s"


def damage_a_shard(campaign: Campaign) -> str:
    """A bit of the newest checkpoint changes, and then a worker is lost."""
    workers = set(campaign.workers())
    kill_a_worker(campaign)
    wait_until(lambda: workers.isdisjoint(campaign.workers()))  # else a save that is under way comes behind the damaged one
    folder = newest_whole(campaign.run, [])
    assert folder
    path = campaign.rng.choice(sorted((folder / OPTIMIZER_FOLDER).rglob("*.pt")))
    content = bytearray(path.read_bytes())
    content[campaign.rng.randrange(len(content))] ^= 1 << campaign.rng.randrange(8)
    path.write_bytes(content)
    campaign.wait_until_said(path.relative_to(folder.parent).as_posix())  # by the new start
    return f"{folder.name}/{path.name}"


def poison_a_gradient(campaign: Campaign) -> str:
    """One gradient is not a number; the run stops with a sentence, and its user gives the command again."""
    unseen = "hardware.zero_stage=0" in campaign.settings  # there the next loss or save tells it
    sentence = "; nothing of it was saved" if unseen else "the gradient is not finite at step"
    count = campaign.said.count(sentence)
    campaign.poison.touch()
    campaign.wait_until_said(sentence, count=count + 1)
    assert campaign.command.wait(HANG_S) == 1
    return ""


def _node(campaign: Campaign) -> Host:
    return campaign.rng.choice(campaign.nodes)


FAULTS: dict[str, Callable[[Campaign], str]] = {
    function.__name__: function for function in (
        kill_a_worker, kill_a_raylet, lose_a_node, cut_a_node_off, restart_the_head, withdraw_a_node, kill_the_command, fill_the_disk,
        take_the_storage_away, damage_a_shard, poison_a_gradient,
    )
}
TRAINED_ON = (fill_the_disk.__name__, take_the_storage_away.__name__)
"""Those that a run does not start again after."""
NEED_MACHINES = (cut_a_node_off.__name__, fill_the_disk.__name__)
"""Those that raylets side by side on a shared disk cannot have."""
