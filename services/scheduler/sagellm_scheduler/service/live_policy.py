"""The live policy: set by the settings, changed over the bus, kept in the bucket `policy` for all schedulers."""

from collections.abc import Awaitable, Callable

import structlog

from sagellm_common.bus import Bucket, Received
from sagellm_common.contracts.policy import Policy, PolicyChange, PolicyReply
from sagellm_common.errors import SageError, Unavailable
from sagellm_scheduler.core.events import PolicyChanged
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES, QueuePolicy
from sagellm_scheduler.routing.router import ROUTERS, Router
from sagellm_scheduler.settings import SchedulerSettings

log = structlog.get_logger(__name__)
KEY = "scheduler"


class LivePolicy:
    """Answers the policy endpoint and applies what the bucket says.

    Over the bus only known names and the one from the settings may be chosen: no class is loaded by a message.
    `reopen` opens the bucket anew, since it may have gone with the server's storage.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        bucket: Bucket,
        reopen: Callable[[], Awaitable[Bucket]],
        apply: Callable[[PolicyChanged], None],
    ) -> None:
        self._bucket, self._reopen, self._apply = bucket, reopen, apply
        self._default = Policy(queue=settings.queue_policy, router=settings.router)
        self._queue: QueuePolicy = QUEUE_POLICIES.make(settings.queue_policy, dotted=True)
        self._router: Router = ROUTERS.make(settings.router, dotted=True)
        self.current = self._default

    @property
    def queue(self) -> QueuePolicy:
        return self._queue

    @property
    def router(self) -> Router:
        return self._router

    def follow(self, key: str, policy: Policy) -> None:
        """Apply what the bucket says; names unknown to this version are logged and change nothing."""
        try:
            self._change(policy)
        except SageError as error:
            log.error("policy_refused", error=error.message)

    def gone(self, key: str) -> None:
        """The bucket says nothing any more: the settings hold again."""
        self._change(self._default)

    async def handle(self, change: PolicyChange, received: Received) -> PolicyReply:
        """Change what is set, keep the rest; raises InvalidArgument for an unknown name, listing the known ones."""
        wanted = Policy(queue=change.queue or self.current.queue, router=change.router or self.current.router)
        if wanted != self.current:
            self._made(wanted)
            await self._put(wanted)
            self._change(wanted)
        return PolicyReply(policy=self.current, known_queues=self._known_queues(), known_routers=self._known_routers())

    async def _put(self, policy: Policy) -> None:
        try:
            await self._bucket.put(KEY, policy)
        except Unavailable:
            self._bucket = await self._reopen()
            await self._bucket.put(KEY, policy)

    async def restore(self) -> None:
        """Write the live policy again if the bucket has been made anew; raises Unavailable."""
        policy, created_ns = self.current, self._bucket.created_ns
        bucket = await self._reopen()
        if bucket.created_ns != created_ns and policy != self._default:
            await bucket.put(KEY, policy)
        self._bucket = bucket

    def _change(self, policy: Policy) -> None:
        if policy == self.current:
            return
        self._queue, self._router = self._made(policy)
        self.current = policy
        log.info("policy_changed", queue=policy.queue, router=policy.router)
        self._apply(PolicyChanged(self._queue, self._router))

    def _made(self, policy: Policy) -> tuple[QueuePolicy, Router]:
        """Return the named implementations; what is in force already is kept with its state."""
        is_own_queue, is_own_router = policy.queue == self._default.queue, policy.router == self._default.router
        return (
            self._queue
            if policy.queue == self.current.queue
            else QUEUE_POLICIES.make(policy.queue, dotted=is_own_queue),
            self._router if policy.router == self.current.router else ROUTERS.make(policy.router, dotted=is_own_router),
        )

    def _known_queues(self) -> list[str]:
        return sorted({*QUEUE_POLICIES.known(), self._default.queue})

    def _known_routers(self) -> list[str]:
        return sorted({*ROUTERS.known(), self._default.router})
