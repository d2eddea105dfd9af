"""What the scheduler measures about its own work: how long answers are, and how fast queues are served."""

from collections import deque

from sagellm_common.contracts.scheduling import Submit

FIRST_GUESS_TOKENS = 256.0
WEIGHT_OF_NEWEST = 0.05
WINDOW_S = 30.0
RETRY_RANGE_S = (0.1, 60.0)
MAX_CHOICES = 1024
MAX_AGE_MS = 86_400_000.0


def context_tokens(submit: Submit) -> int:
    """Tokens that an engine must hold before it can produce the next one."""
    return submit.prompt_tokens + max(0, submit.delivered_tokens)


def num_seqs(submit: Submit) -> int:
    """Sequence slots that a request takes, whatever nonsense it states."""
    return min(max(1, submit.num_choices), MAX_CHOICES)


def age_s(submit: Submit) -> float:
    """Seconds since the gateway accepted the request; 0 if what it states makes no sense."""
    return submit.age_ms / 1e3 if 0.0 <= submit.age_ms < MAX_AGE_MS else 0.0


def sensible_retry_s(wait_s: float) -> float:
    """Return when to try again, in seconds: neither at once nor in an hour."""
    low, high = RETRY_RANGE_S
    return round(min(high, max(low, wait_s)), 3)


class AnswerLengths:
    """Expected tokens of an answer per model: a moving average of the answers seen."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def observe(self, model: str, completion_tokens: int) -> None:
        """Learn from one finished request."""
        mean = self._mean.get(model, FIRST_GUESS_TOKENS)
        self._mean[model] = mean + WEIGHT_OF_NEWEST * (completion_tokens - mean)

    def answer(self, submit: Submit) -> float:
        """Return the tokens that an answer is expected to have."""
        return max(1.0, min(submit.max_tokens, self._mean.get(submit.model, FIRST_GUESS_TOKENS)))

    def typical(self, model: str) -> float:
        """Return the mean tokens of an answer of a model."""
        return max(1.0, self._mean.get(model, FIRST_GUESS_TOKENS))

    def kv_tokens(self, submit: Submit) -> int:
        """Return the KV tokens that a request is expected to need: its prompt once, an answer per choice."""
        return context_tokens(submit) + int(num_seqs(submit) * self.answer(submit))


class ServiceRate:
    """How many requests leave a queue per second, over the last half minute."""

    def __init__(self) -> None:
        self._served: deque[float] = deque(maxlen=4096)

    def served(self, now: float) -> None:
        """Note that one request has been placed."""
        self._served.append(now)

    def per_second(self, now: float) -> float | None:
        """Return the measured rate, or None while there is nothing to measure."""
        while self._served and now - self._served[0] > WINDOW_S:
            self._served.popleft()
        if len(self._served) < 2:
            return None
        return len(self._served) / max(now - self._served[0], 1e-3)

    def wait_s(self, waiting: int, now: float) -> float:
        """Return when so many requests will have left the queue, in seconds; 1 if nothing is known."""
        rate = self.per_second(now)
        return 1.0 if rate is None else waiting / rate

    def retry_after_s(self, waiting: int, now: float) -> float:
        """Return when a place in a queue of this length may be expected, in seconds; 1 if nothing is known."""
        return sensible_retry_s(self.wait_s(waiting, now))
