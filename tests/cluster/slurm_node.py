"""What stands in for Slurm on machines of namespaces: `serve SOCKET` runs steps on a node, as slurmd does; `step` is srun.

A step runs once on every node of SLURM_NODE_SOCKETS, with the caller's environment, folder and output; the first that fails ends all.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from threading import Thread

ALWAYS = {"--ntasks-per-node=1", "--kill-on-bad-exit=1"}


def serve(path: str) -> None:
    """Take steps for ever."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()
        while True:
            Thread(target=_run, args=(server.accept()[0],), daemon=True).start()


def _run(caller: socket.socket) -> None:
    message, outputs, *_ = socket.recv_fds(caller, 1 << 18, 2)
    asked = json.loads(message)
    process = subprocess.Popen(
        asked["words"], env=asked["environment"], cwd=asked["folder"], stdout=outputs[0], stderr=outputs[1], start_new_session=True
    )
    for output in outputs:
        os.close(output)
    Thread(target=_end_with, args=(caller, process), daemon=True).start()
    status = process.wait()
    with suppress(OSError):
        caller.send(str(status if status >= 0 else 128 - status).encode())


def _end_with(caller: socket.socket, process: subprocess.Popen) -> None:
    """Kill the step when its caller hangs up."""
    with suppress(OSError):
        caller.recv(1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def step(words: list[str]) -> int:
    """srun, with the options `ALWAYS`; others are left alone."""
    first = next(number for number, word in enumerate(words) if not word.startswith("-"))
    if absent := ALWAYS - set(words[:first]):
        sys.exit(f"this srun behaves as with {', '.join(sorted(absent))} and no other way")
    with selectors.DefaultSelector() as nodes:
        for number, path in enumerate(os.environ["SLURM_NODE_SOCKETS"].split(":")):
            environment = {**os.environ, "SLURM_NODEID": str(number)}
            asked = {"words": words[first:], "environment": environment, "folder": os.getcwd()}
            node = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            node.connect(path)
            socket.send_fds(node, [json.dumps(asked).encode()], [1, 2])
            nodes.register(node, selectors.EVENT_READ)
        while nodes.get_map():
            for key, _ in nodes.select():
                status = int(key.fileobj.recv(16))
                nodes.unregister(key.fileobj)
                if status:
                    return status
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[2]) if sys.argv[1] == "serve" else step(sys.argv[2:]))
