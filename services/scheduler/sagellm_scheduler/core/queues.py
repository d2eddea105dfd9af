"""The queues of all models, and the requests that are set aside until an engine is ready."""

import math
from collections.abc import Iterator

from sagellm_scheduler.core.requests import Request, State
from sagellm_scheduler.queueing.policy import QueuePolicy, Reviewed, Timely
from sagellm_scheduler.queueing.queue import RequestQueue
from sagellm_scheduler.queueing.surplus import Job, surplus

LOOK_AHEAD = 128


class Queues:
    """One queue per model, so that no model waits behind another."""

    def __init__(self, policy: QueuePolicy) -> None:
        self._use(policy)
        self._queues: dict[str, RequestQueue] = {}
        self._parked: dict[str, dict[str, Request]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values())) + sum(map(len, self._parked.values()))

    def describe(self) -> str:
        """The policy's name, and why it orders as it does if it says so."""
        reason = getattr(self.policy, "reason", None)
        return f"{self.policy.name}: {reason}" if reason else self.policy.name

    def models(self) -> list[str]:
        """Models for which something is queued."""
        return [model for model, queue in self._queues.items() if queue]

    def num_waiting(self, model: str) -> int:
        return len(self._queues.get(model, ())) + len(self._parked.get(model, ()))

    def seconds_waiting(self, model: str) -> float:
        """What the prompts that are queued for a model take an idle engine. Those that have given way count, too: else
        others would be admitted in their place, and they would never be served."""
        queue = self._queues.get(model)
        return queue.seconds if queue is not None else 0.0

    def put(self, request: Request) -> None:
        """Queue a request under its policy's key."""
        request.state = State.QUEUED
        self._of(request.submit.model).push(request)

    def head(self, model: str) -> Request | None:
        """Return the request that goes next for a model."""
        queue = self._queues.get(model)
        return queue.peek() if queue is not None else None

    def take_out(self, request: Request) -> bool:
        """Remove a request wherever it waits; returns whether it did."""
        model = request.submit.model
        if request.state is State.PARKED:
            return self._parked.get(model, {}).pop(request.request_id, None) is not None
        queue = self._queues.get(model)
        return queue is not None and queue.remove(request)

    def minds_time(self, model: str) -> bool:
        """Whether some requests for a model may have to give way for others to be in time."""
        return self._timely is not None and self._timely.minds_time and len(self._queues.get(model, ())) > 1

    def keep_in_time(self, model: str, begins: float, engines: float) -> bool:
        """Let those give way without which most of the others are in time, if so many idle engines work off the queue
        from `begins` on; of a long queue only the first `LOOK_AHEAD` are looked at. Returns whether another is next."""
        if self._timely is None:
            return False
        queue = self._queues[model]
        waiting = queue.first(LOOK_AHEAD)
        for number in surplus([_job(request, self._timely) for request in waiting], begins, engines):
            queue.give_way(waiting[number])
        return queue.peek() is not waiting[0]

    def give_way(self, request: Request) -> bool:
        """Let the head of a queue, which is late, go behind those that can still be in time, if there are others, the
        policy minds, and it has not done so before; returns whether it did."""
        model = request.submit.model
        if request.gave_way or not self.minds_time(model):
            return False
        self._queues[model].give_way(request)
        return True

    def serve(self, request: Request) -> None:
        """Remove the head of a queue, because it has been placed."""
        self._queues[request.submit.model].serve(request)

    def review(self, wait_s: float, now: float) -> None:
        """Let the policy look at the load; if it wants another order, order all queues anew."""
        waiting = sum(map(len, self._queues.values()))
        if self._reviewed is not None and self._reviewed.review(waiting, wait_s, now):
            self.change_policy(self.policy)

    def park(self, request: Request) -> None:
        """Set the head of a queue aside."""
        self.take_out(request)
        request.state = State.PARKED
        self._parked.setdefault(request.submit.model, {})[request.request_id] = request

    def take_parked(self, model: str) -> list[Request]:
        """Return what was set aside for a model, which is to be queued again: in its old place."""
        return list(self._parked.pop(model, {}).values())

    def change_policy(self, policy: QueuePolicy) -> None:
        """Order everything by another policy; nothing is lost."""
        self._use(policy)
        for queue in self._queues.values():
            queue.reorder(policy)

    def clear(self) -> None:
        self._queues.clear()
        self._parked.clear()

    def __iter__(self) -> Iterator[Request]:
        for queue in self._queues.values():
            yield from queue
        for parked in self._parked.values():
            yield from parked.values()

    def _use(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self._reviewed = policy if isinstance(policy, Reviewed) else None
        self._timely = policy if isinstance(policy, Timely) else None

    def _of(self, model: str) -> RequestQueue:
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = RequestQueue(self.policy)
        return queue


def _job(request: Request, policy: Timely) -> Job:
    is_fixed = request.gave_way or request.has_begun
    return Job(request.alone_s, math.inf if is_fixed else policy.latest(request), is_fixed=is_fixed)
