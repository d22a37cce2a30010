"""What must never stand in a setting, a command line or a message to another machine: passwords and keys, told by how they look."""

from __future__ import annotations

import re

_WITH_PASSWORD = re.compile(r"://[^/\s@]*:(?!\d+/)\S*@")
"""Keys of S3 hold slashes; a port is no password."""
_SECRET_ENDS = ("KEY", "KEYS", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS")
ADVICE = "put it into the environment of the cluster's nodes (or a Kubernetes secret), where storage and W&B look for their keys"


def has_password(text: str) -> bool:
    """Whether a text holds a URL with a user and a password, such as s3://user:password@bucket."""
    return bool(_WITH_PASSWORD.search(text))


def is_secret_name(name: str) -> bool:
    """Whether an environment variable is called as secrets are: WANDB_API_KEY, AWS_SECRET_ACCESS_KEY, HF_TOKEN."""
    return any(word.endswith(_SECRET_ENDS) for word in name.upper().split("_"))

