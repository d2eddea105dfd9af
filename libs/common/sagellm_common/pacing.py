"""How long a step may be held up by prompts when its answers are promised a time from token to token.

Engines form their steps by it, and schedulers predict by it how fast prompts get on there.
"""

from typing import Any

import numpy as np

MARGIN = 0.85
"""Share of the promised time that a step may take: the rest is for what happens between two steps."""

LEAST_SHARE = 0.2
"""Share of a step's time that prompts get in any case, so that they are never starved."""


def prompt_seconds(limit_s: Any, answers_s: Any) -> Any:
    """Return the seconds that prompts may add to a step which takes `answers_s` without them, under a limit on the
    time from token to token; numbers or arrays."""
    least = LEAST_SHARE / (1.0 - LEAST_SHARE) * answers_s
    return np.maximum(MARGIN * limit_s - answers_s, least)
