"""One story each: load, plan, run on Ray, report."""

from __future__ import annotations

from cluster.token import ask_for_own_token

ask_for_own_token()  # here, because Ray reads what it sets when one of these modules imports it
