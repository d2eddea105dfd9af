"""How many tokens of prompts fit into a step beside answers that are promised a time from token to token.

A long prompt that is computed in one step holds up every answer beside it. Chunks bound that (Agrawal et al.,
"Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve", 2024); here the bound is not a number of
tokens but the time that the answers at hand leave, by step times that are learnt while the engine works.
"""

from collections.abc import Set

import numpy as np

from sagellm_common.pacing import prompt_seconds
from sagellm_common.regression import RobustRegression
from sagellm_engine.core.types import StepReport

UNBOUNDED = float("inf")
NO_LIMIT = 1 << 30
"""More tokens than any step has."""

FIRST, LEARN_EVERY = 8, 16
MEMORY = 256.0
SCALES = np.array([1.0, 1 / 32, 1 / 16_384, 1 / 256, 1 / 262_144])
FIRST_GUESS = np.array([5e-3, 1e-3, 1e-3, 1e-2, 1e-3])


class Pace:
    """Step times of one engine: seconds = base + decoding sequences, tokens of their contexts, tokens of prompts, and
    those times the context before them, each by a factor of its own."""

    def __init__(self) -> None:
        self._regression = RobustRegression(FIRST_GUESS, memory=MEMORY, prior_samples=0.01)
        self._factors: tuple[float, ...] = ()
        self._pending: list[tuple[float, ...]] = []

    def observe(self, step: StepReport) -> None:
        """Take a step. Once there are enough, those without answers teach nothing more."""
        if not step.rows or (self._factors and not step.decode_seqs):
            return
        counts = (step.decode_seqs, step.context_tokens, step.prefill_tokens, step.chunk_x_context)
        self._pending.append((1.0, *counts, max(1e-6, step.duration_s)))
        if len(self._pending) >= (LEARN_EVERY if self._factors else FIRST):
            self._learn()

    def answers_s(self, decode_seqs: int, context_tokens: int) -> float:
        """Return how long a step takes without prompts; 0 as long as too few have been seen to say."""
        if not self._factors:
            return 0.0
        base, decode, context, _, _ = self._factors
        return base + decode * decode_seqs + context * context_tokens

    def allowance(self, limits_s: Set[float], decode_seqs: int, context_tokens: int, before: int) -> tuple[float, int]:
        """Return the limit that is kept, of those promised to the answers of a step, and how many tokens of prompts it
        leaves; of the first prompt `before` tokens are computed."""
        if not limits_s:
            return UNBOUNDED, NO_LIMIT
        answers_s = self.answers_s(decode_seqs, context_tokens)
        limit_s = promised(limits_s, answers_s)
        return limit_s, self.chunk(limit_s, answers_s, before)

    def chunk(self, limit_s: float, answers_s: float, before: int) -> int:
        """Return how many tokens of a prompt, behind so many that are computed, keep a step within its share of a limit
        on the time from token to token; never so few that prompts get less than their own share."""
        if not self._factors or limit_s == UNBOUNDED:
            return NO_LIMIT
        each = max(1e-9, self._factors[3] + self._factors[4] * before)
        return max(1, int(prompt_seconds(limit_s, answers_s) / each))

    def behind(self, itl_s: float | None, decode_seqs: int, context_tokens: int) -> int:
        """Return how many tokens of other prompts may follow in a step in which a prompt ends whose answer is promised
        `itl_s`: they hold up its first token as they would the next ones."""
        if itl_s is None:
            return NO_LIMIT
        answers_s = self.answers_s(decode_seqs, context_tokens)
        return self.chunk(promised({itl_s}, answers_s), answers_s, 0)

    def _learn(self) -> None:
        samples, self._pending = np.array(self._pending), []
        regression = self._regression
        regression.observe(samples[:, :-1] * SCALES, samples[:, -1])
        self._factors = tuple((regression.theta * SCALES).tolist())


def promised(limits_s: Set[float], answers_s: float) -> float:
    """Return the least of the promised times that can be kept at all, of answers whose steps take so long without any
    prompt: what is lost anyway holds up nobody."""
    return min((limit for limit in limits_s if limit > answers_s), default=UNBOUNDED)
