"""Where the services are: what was said, else the environment, else the stack that runs on this machine."""

import os

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
DEFAULT_HTTP_URL = "http://127.0.0.1:8000"


def nats_url(url: str | None = None) -> str:
    """Return the bus' URL: `url`, SAGELLM_NATS_URL, that of the newest running stack, or the usual port."""
    return url or os.environ.get("SAGELLM_NATS_URL") or _running("nats_url") or DEFAULT_NATS_URL


def http_url(url: str | None = None) -> str:
    """Return the gateway's URL: `url`, SAGELLM_URL, that of the newest running stack, or the usual port."""
    return (url or os.environ.get("SAGELLM_URL") or _running("http_url") or DEFAULT_HTTP_URL).rstrip("/")


def _running(field: str) -> str | None:
    from sagellm.launcher.record import newest_running  # reads a folder, so only when nothing else is said

    record = newest_running()
    return None if record is None else str(getattr(record, field))
