"""Which subjects a caller may name for its replies."""

# All subjects of all deployments begin so.
OWN_PREFIX = "sagellm."


def is_callers_own(subject: str) -> bool:
    """Whether replies may be published to `subject`.

    Refused are the server's subjects (`$KV`, `$JS`, `$SRV`, `$SYS`) and those of the deployments: a caller that may
    not publish there itself must not have the gateway do it. A wildcard is no subject to publish to.
    """
    tokens = subject.split(".")
    return not subject.startswith(("$", OWN_PREFIX)) and all(token not in ("", "*", ">") for token in tokens)
