"""What arrives: how often, how much of it comes at once, and what the mean request is like."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from sagellm_common.contracts.plan import MeanTokens
from sagellm_scheduler.perf_model.capacity import Mix

BIN_S = 5.0
HOUR_S = 3600.0
RECENT_S = 600.0
WINDOW_S = 30.0
QUANTILE = 0.9
FIRST_BURST = 1.3
LEAST_WINDOWS = 40
WEIGHT_OF_NEWEST = 0.005
DAY = 24
MOST_HOURS = 14 * DAY


def usual_next(hours: Sequence[float]) -> float:
    """Return what an hour that nobody has counted is taken to be: as a day before, or as the one before it."""
    return hours[-DAY] if len(hours) >= DAY else hours[-1]


@dataclass(slots=True)
class MeanRequest:
    """The mean request of the last few hundred, in tokens; `long_prompt`: nine of ten prompts are shorter."""

    new: float = 512.0
    output: float = 256.0
    context: float = 640.0
    products: float = 512.0 * 256.0
    long_prompt: float = 1024.0
    seen: int = 0

    @classmethod
    def going_on(cls, former: MeanTokens | None) -> Self:
        """What was learnt before, as if from as many requests as weigh in a mean; of nothing, the first guesses."""
        return cls() if former is None else cls(**former.model_dump(), seen=round(1.0 / WEIGHT_OF_NEWEST))

    def observe(self, prompt: int, cached: int, output: int) -> None:
        """Learn from a request that has been answered."""
        self.seen += 1
        weight = max(WEIGHT_OF_NEWEST, 1.0 / self.seen)
        new = max(1, prompt - cached)
        self.new += weight * (new - self.new)
        self.output += weight * (output - self.output)
        self.products += weight * (new * (prompt - new / 2) - self.products)
        length = prompt + output / 2  # counted as often as it has tokens: that is how long it is beside others
        self.context += weight * output / max(1.0, self.output) * (length - self.context)
        step = 0.02 * max(self.long_prompt, 1.0)
        self.long_prompt += step * (0.9 if prompt > self.long_prompt else -0.1)

    @property
    def mix(self) -> Mix:
        return Mix(self.new, self.output, self.context, self.products)

    @property
    def tokens(self) -> MeanTokens | None:
        """What a plan keeps of it; None before a request has been seen."""
        if not self.seen:
            return None
        return MeanTokens(
            new=self.new,
            output=self.output,
            context=self.context,
            products=self.products,
            long_prompt=self.long_prompt,
        )


class Arrivals:
    """Requests in bins of five seconds for the last hour, and in hours for two weeks.

    `hours`: requests a second of the hours that are over, oldest first; given, they go on.
    """

    def __init__(self, hours: list[float] | None = None) -> None:
        self.hours: deque[float] = deque(hours or (), maxlen=MOST_HOURS)
        self._bins: deque[tuple[int, float]] = deque(maxlen=int(HOUR_S / BIN_S))
        self._number: int | None = None
        self._requests, self._tokens = 0, 0.0
        self._hour, self._of_hour, self._bins_of_hour = 0, 0, 0

    def arrived(self, prompt_tokens: float, now: float) -> None:
        """Count a request."""
        self.pass_time(now)
        self._requests += 1
        self._tokens += prompt_tokens

    def pass_time(self, now: float, *, heard: bool = True) -> None:
        """Close the bins that are over at `now`, in seconds; those in which not all was `heard` do not count."""
        number = int(now / BIN_S)
        if self._number is None:
            self._number, self._hour = number, int(now / HOUR_S)
        while self._number < number:
            if heard:
                self._close()
            self._number += 1
            self._requests, self._tokens = 0, 0.0
            if int(self._number * BIN_S / HOUR_S) != self._hour:
                self._close_hour()

    def _close(self) -> None:
        self._bins.append((self._requests, self._tokens))
        self._of_hour += self._requests
        self._bins_of_hour += 1

    def _close_hour(self) -> None:
        if self._bins_of_hour * BIN_S >= HOUR_S / 2:
            self.hours.append(self._of_hour / (self._bins_of_hour * BIN_S))
        elif self.hours:  # less tells too little of an hour, but the season of a day must stay in step
            self.hours.append(usual_next(self.hours))
        self._hour, self._of_hour, self._bins_of_hour = self._hour + 1, 0, 0

    def rate(self, seconds: float = RECENT_S) -> float:
        """Requests a second in the last so many seconds, as far as they have been seen."""
        bins = min(len(self._bins), max(1, int(seconds / BIN_S)))
        recent = list(self._bins)[len(self._bins) - bins :]
        return sum(requests for requests, _ in recent) / (bins * BIN_S) if bins else 0.0

    def burst(self, per_request: float, per_token: float) -> float:
        """How much more than is usual around it comes in half a minute, but for one of ten.

        What comes is weighed by what a request and a token of its prompt take.
        """
        work = np.array([per_request * requests + per_token * tokens for requests, tokens in self._bins])
        size, around = int(WINDOW_S / BIN_S), int(RECENT_S / BIN_S)
        if len(work) < size * LEAST_WINDOWS:
            return FIRST_BURST
        sums = np.concatenate([[0.0], np.cumsum(work)])
        ends = np.arange(around, len(work) + 1, size)
        if not len(ends):
            return FIRST_BURST
        windows = (sums[ends] - sums[ends - size]) / size
        means = (sums[ends] - sums[ends - around]) / around
        known = means > 0.0
        if not known.any():
            return FIRST_BURST
        return max(1.0, float(np.quantile(windows[known] / means[known], QUANTILE)))
