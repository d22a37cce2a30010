"""The token that a Ray cluster asks its clients for: where it lies, that it is asked for, and what to say when it does not fit.

Ray reads RAY_AUTH_MODE once, when it is imported, so this runs before. Driver and client; no Ray.
"""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hyena_glt.errors import ClusterError
from hyena_glt.files import unfinished_name

if TYPE_CHECKING:
    from grpc import StatusCode

MODE = "RAY_AUTH_MODE"
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""The call by which Ray's own processes see whether a head lives."""
ANSWER_S = 10.0


def ask_for_token() -> None:
    """Let this process show and demand the token from now on, if it has one and was not told otherwise.

    The driver of a job and a worker have their cluster's own mode already. Where Ray was imported before, it would not hear of it, and
    its own default, which a cluster that it starts follows, would give way to what it has not heard.
    """
    if not _inside() and "ray" not in sys.modules and token_place():
        os.environ.setdefault(MODE, "token")


def ask_for_own_token() -> None:
    """The same in a process that may start a cluster: with a token that is made where there is none."""
    if not _inside() and "RAY_ADDRESS" not in os.environ:
        with suppress(ClusterError):  # said by the start of a cluster, if it comes to that
            make_token()
    ask_for_token()


def _inside() -> bool:
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "RAY_RAYLET_PID" in os.environ


def token_place() -> str | None:
    """What holds the token, in the order that Ray looks: a variable, or a file."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    file = _token_file()
    return str(file) if file.is_file() else None


def make_token() -> None:
    """A token for a cluster that starts here, where there is none; a file of it that others may read becomes the owner's alone."""
    if os.environ.get(MODE, "token") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = _token_file()
    try:
        if file.is_file():
            if file.stat().st_uid == os.getuid() and file.stat().st_mode & 0o077:
                file.chmod(0o600)
            return
        _write_token(file)
    except OSError as error:
        raise ClusterError(
            f"{file}: no token could be made for the cluster ({os.strerror(error.errno or 0)}); set RAY_AUTH_TOKEN_PATH to a file that can "
            f"be written, or RAY_AUTH_MODE=disabled where everybody who reaches this machine may run code on it"
        ) from error


def _write_token(file: Path) -> None:
    """Whole or not at all, and readable by the owner alone from the start; an earlier one stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_name(file)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(secrets.token_hex(32))
    with suppress(FileExistsError):  # another process was faster, and one token is as good as another
        os.link(unfinished, file)
    unfinished.unlink()


def require_same_token(address: str) -> None:
    """ClusterError where the head at host:port takes another token than is shown here, or none.

    Ray itself would try another for 20 s, and where the one side has a token and the other none, calls back to the driver would fail.
    """
    mode = os.environ.get(MODE, "disabled").lower()
    if mode not in ("token", "disabled") or os.environ.get("RAY_USE_TLS") == "1":
        return
    from grpc import StatusCode

    shown = {"authorization": f"Bearer {_token()}"} if mode == "token" else {}
    if _answer(address, shown) == StatusCode.UNAUTHENTICATED:
        raise refused(address)
    if shown and _answer(address, {}) == StatusCode.OK:
        raise ClusterError(
            f"{address}: this cluster asks for no token, and this process would ask its workers for one; give the cluster a token "
            f"(`ray get-auth-token --generate` on its head, and start it again), or set {MODE}=disabled here"
        )


def _answer(address: str, shown: dict[str, str]) -> StatusCode:
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(ALIVE)(b"", timeout=ANSWER_S, metadata=tuple(shown.items()))
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def refused(address: str) -> ClusterError:
    """What to say when a cluster does not take what this process shows."""
    place = token_place()
    if place is None:
        return ClusterError(
            f"{address}: this cluster asks for a token, and there is none here; write the cluster's own (`ray get-auth-token` on its head) "
            f"to ~/.ray/auth_token, readable by you alone, or name its file in RAY_AUTH_TOKEN_PATH"
        )
    if MODE not in os.environ:
        return ClusterError(f"{address}: this cluster asks for a token, and Ray was imported before {MODE}=token was set; set it first")
    if os.environ[MODE].lower() != "token":
        return ClusterError(f"{address}: this cluster asks for a token, and {MODE} is {os.environ[MODE]!r} here; leave it out")
    return ClusterError(
        f"{address}: this cluster asks for another token than that in {place}; take the cluster's own (`ray get-auth-token` on its head)"
    )


def _token() -> str:
    place = token_place()
    return os.environ["RAY_AUTH_TOKEN"] if place == "RAY_AUTH_TOKEN" else Path(place).read_text().strip() if place else ""


def _token_file() -> Path:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"
