"""Jobs on a cluster, through the job server of its dashboard: submit, follow, stop, look at them. On the client; Ray, no torch."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hyena_glt.config.credentials import has_password
from hyena_glt.errors import ClusterError, ConfigError, HyenaError, JobError, StorageError
from hyena_glt.files import naming

from .parcel import COMMIT, Job, code_commit, packed, sent_variables
from .token import ask_for_token, refused

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_S = 300
"""How long a job that is told to stop has for its checkpoint, before it is killed; Ray's own default is 3 s."""
SILENCE_S = 120.0
"""A stream that has brought nothing for so long is opened anew: a connection that died under way looks like one that is quiet."""
ABSENCE_S = 300.0
"""How long a job server may give no answer, before whoever follows a job gives up; the job goes on."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
RETRY_S = 2.0
POLL_S = 0.5

Result = dict[str, Any]
log = logging.getLogger(__name__)


class ReaderGone(HyenaError):
    """Whoever read what is shown here has left, as `head` does; the job goes on."""

    exit_status = 128 + signal.SIGPIPE


def submit(job: Job, *, address: str | None, submission_id: str | None, variables: Sequence[str] = (), wait: bool = True) -> Result:
    """Send a job and, with `wait`, follow it to its end; its own result, else what it is called.

    Raises:
        ConfigError: for an id or a variable that cannot be sent. ClusterError: where no job server takes it.
        StorageError: where a file here cannot be read or written, when it is packed.
        JobError: with its exit status, where it does not end well.
    """
    submission_id = submission_id and _checked_id(submission_id)
    variables_sent = sent_variables(variables) | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    if commit := code_commit():
        variables_sent[COMMIT] = commit
    with packed(job) as folder, _server(address) as client:  # packed first: what fails there is not the server's
        name = client.submit_job(
            entrypoint=job.entrypoint, submission_id=submission_id, metadata={"command": job.command},
            runtime_env={"working_dir": str(folder), "env_vars": variables_sent},
        )
    log.info("job %s is submitted; `hyena-glt logs %s` follows it, `hyena-glt stop %s` saves and ends it", name, name, name)
    return logs(name, address=address) if wait else {"submission_id": name, "status": "submitted"}


def logs(submission_id: str, *, address: str | None) -> Result:
    """Follow a job's log to its end, on stderr; the result, and the errors, as of `submit`."""
    name = _checked_id(submission_id)
    text = Transcript(sys.stderr)
    try:
        with _server(address) as client:
            client.get_job_info(name)  # must exist: Ray's dashboard refuses a stream with a line in its log that shows the token
            details = _follow(client, name, text)
    except KeyboardInterrupt:
        log.warning("job %s goes on; `hyena-glt logs %s` follows it again, `hyena-glt stop %s` ends it", name, name, name)
        raise
    return _outcome(name, details, text)


def stop(submission_id: str, *, address: str | None) -> Result:
    """Tell a job to save and end, and wait until it has; one that had ended is left as it is."""
    name = _checked_id(submission_id)
    with _server(address) as client:
        client.stop_job(name)
        while not (details := client.get_job_info(name)).status.is_terminal():  # Ray kills it when its time is over
            time.sleep(POLL_S)
    return _described(details)


def status(submission_id: str | None, *, address: str | None) -> Result:
    """How a job is doing; without an id, all jobs that were submitted to the cluster."""
    with _server(address) as client:
        if submission_id:
            return _described(client.get_job_info(_checked_id(submission_id)))
        return {"jobs": [_described(details) for details in client.list_jobs() if details.submission_id]}


# The log


class Transcript:
    """The log of a job, written as it comes, each character once; a stream that breaks begins again from the start."""

    def __init__(self, out: Any) -> None:
        self._out, self._shown, self._position = out, 0, 0
        self.end = ""
        """The last part, long enough for a result."""

    def begin(self) -> None:
        """A stream begins."""
        self._position = 0

    def take(self, chunk: str) -> None:
        """Write what is new in the next part of a stream. ReaderGone or StorageError where that cannot be: no stream mends it."""
        new = chunk[max(0, self._shown - self._position) :]
        self._position += len(chunk)
        self._shown = max(self._shown, self._position)
        self.end = (self.end + new)[-(1 << 20) :]
        try:
            self._out.write(new)
            self._out.flush()
        except BrokenPipeError as error:
            _silence(self._out)
            raise ReaderGone("nobody reads the log any more; the job goes on") from error
        except OSError as error:
            raise StorageError(f"the log could not be written ({error}); the job goes on") from error

    def result(self) -> Result | None:
        """The last line that is an object of JSON, as every command prints one at its end."""
        for line in reversed(self.end.splitlines()):
            if line.startswith("{") and line.endswith("}"):
                try:
                    found: Result = json.loads(line)
                    return found
                except ValueError:
                    continue
        return None


def _silence(out: Any) -> None:
    """Let what is still to be said go nowhere: at its end Python would try once more, and complain."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), out.fileno())


def _follow(client: JobSubmissionClient, name: str, text: Transcript) -> JobDetails:
    """Write the log until the job has ended and all of it is there, or the stream of an ended job has broken three times."""
    answered, broken = time.monotonic(), 0
    while True:
        whole = _stream(client, name, text)
        try:
            details = client.get_job_info(name)
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
            if isinstance(error, RuntimeError) and "status code 5" not in str(error):
                raise
            if time.monotonic() - answered > ABSENCE_S:
                raise ClusterError(
                    f"the job server has not answered for {ABSENCE_S:.0f} s ({type(error).__name__}); job {name} may well go on, and "
                    f"`hyena-glt logs {name}` follows it again"
                ) from error
            log.warning("the job server does not answer; trying again")
            time.sleep(RETRY_S)
            continue
        answered = time.monotonic()
        if details.status.is_terminal():
            broken += not whole
            if whole or broken == 3:
                return details
        if not whole:
            time.sleep(RETRY_S)


def _stream(client: JobSubmissionClient, name: str, text: Transcript) -> bool:
    """Write what one stream brings; whether it ended in order, as it does when the job has ended."""
    import aiohttp

    async def follow() -> None:
        text.begin()
        clock = asyncio.get_running_loop().time
        async with asyncio.timeout(SILENCE_S) as patience:
            async for chunk in client.tail_job_logs(name):
                text.take(chunk)
                patience.reschedule(clock() + SILENCE_S)

    try:
        asyncio.run(follow())
    except (aiohttp.ClientError, OSError, RuntimeError, TimeoutError):
        return False
    return True


# How it ended


def _outcome(name: str, details: JobDetails, text: Transcript) -> Result:
    """The result of a job that ended well or was stopped with a checkpoint; JobError for any other."""
    status, result = details.status.lower(), text.result()
    if status == "succeeded" or (status == "stopped" and result):
        return result or _described(details)
    code = 130 if status == "stopped" else details.driver_exit_code or 1
    code = 128 - code if code < 0 else code  # ended by a signal, as a shell says it
    reason = "was stopped" if status == "stopped" else f"failed with exit status {code}; its log is above"
    if details.driver_exit_code is None and status == "failed":
        reason = f"failed: {' '.join(str(details.message).split())}"
    raise JobError(f"job {name} {reason}", code)


def _described(details: JobDetails) -> Result:
    ended = {"exit_status": details.driver_exit_code} if details.driver_exit_code is not None else {}
    return {
        "submission_id": details.submission_id, "status": details.status.lower(), "command": (details.metadata or {}).get("command"),
        **ended, "seconds": _seconds(details),
    }


def _seconds(details: JobDetails) -> float | None:
    """How long it has run, by the cluster's clock where it has ended."""
    if details.start_time is None:
        return None
    return round((details.end_time or time.time() * 1000) / 1000 - details.start_time / 1000, 1)


# The job server


def _checked_id(name: str) -> str:
    """It becomes part of URLs and of file names on the cluster."""
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise ConfigError(f"--submission_id must be letters, digits, dots, dashes and underscores, got {name}")
    return name


@contextmanager
def _server(address: str | None) -> Iterator[JobSubmissionClient]:
    """The client of a job server; what it, the network and the files here refuse becomes a sentence."""
    url = _checked_url(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # Ray takes this before any argument
    ask_for_token()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:  # uploads and streams that close are no news
        handler.setLevel(logging.WARNING)
    try:
        yield JobSubmissionClient(url)
    except AuthenticationError as error:
        raise refused(url) from error
    except OSError as error:
        if error.filename or error.errno == errno.ENOSPC:  # of a file here: Ray packs what it sends into an archive
            with naming(Path(gettempdir())):
                raise
        raise ClusterError(
            f"{url}: no job server answers; is the cluster up, and its dashboard's port forwarded to this machine?"
        ) from error
    except RuntimeError as error:
        raise ClusterError(f"{url}: {_reason(str(error))}") from error


def _checked_url(address: str) -> str:
    """ConfigError for what is no URL of a job server, and for a password in it; a warning where the token would travel in the clear."""
    if has_password(address):
        raise ConfigError("--address: a password in a URL stands in the process list; leave it out, the cluster asks for its token")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--address must be the URL of the cluster's dashboard, such as {DEFAULT_ADDRESS}, got {address}")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        log.warning(
            "note: the token goes to %s unencrypted; forward the dashboard's port to this machine (ray dashboard, kubectl port-forward, "
            "ssh -L), or put https before it", parts.hostname,
        )
    return address.rstrip("/")


def _reason(text: str) -> str:
    """What a job server says, without the traceback around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if "already exists" in line:
            return "a job of this id was submitted before; choose another --submission_id, or leave it out"
        if "does not exist" in line:
            return "there is no such job; `hyena-glt status` lists those that there are"
    return lines[-1] if lines else "the job server refused"
