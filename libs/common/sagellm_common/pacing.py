"""How long a step may be held up by prompts when its answers are promised a time from token to token.

Engines form their steps by it, and schedulers predict by it how fast prompts get on there.
"""

from typing import TypeVar

import numpy as np

from sagellm_common.regression import Vector

MARGIN = 0.85
"""Share of the promised time that a step may take: the rest is for what happens between two steps."""

LEAST_SHARE = 0.2
"""Share of a step's time that prompts get in any case, so that they are never starved."""


Seconds = TypeVar("Seconds", float, Vector)


def prompt_seconds(limit_s: Seconds, answers_s: Seconds) -> Seconds:
    """Return the seconds that prompts may add to a step which takes `answers_s` without them, under a limit on the
    time from token to token."""
    least = LEAST_SHARE / (1.0 - LEAST_SHARE) * answers_s
    return np.maximum(MARGIN * limit_s - answers_s, least)  # type: ignore[no-any-return] # of what it is given
