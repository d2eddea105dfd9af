"""The live policy: set by the settings, changed over the bus, kept in the bucket `policy` for all schedulers."""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from sagellm_common.bus import Bucket, Received
from sagellm_common.contracts.policy import Policy, PolicyChange, PolicyReply
from sagellm_common.errors import SageError, Unavailable
from sagellm_scheduler.core.events import PolicyChanged
from sagellm_scheduler.plugins import Registry
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES, QueuePolicy
from sagellm_scheduler.routing.router import ROUTERS, Router
from sagellm_scheduler.separation.policy import SEPARATION_POLICIES, SeparationPolicy
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
        self._default = Policy(queue=settings.queue_policy, router=settings.router, pd=settings.pd_policy)
        self._queue: QueuePolicy = QUEUE_POLICIES.make(settings.queue_policy, dotted=True)
        self._router: Router = ROUTERS.make(settings.router, dotted=True)
        self._separation: SeparationPolicy = SEPARATION_POLICIES.make(settings.pd_policy, dotted=True)
        self.current = self._default

    @property
    def queue(self) -> QueuePolicy:
        return self._queue

    @property
    def router(self) -> Router:
        return self._router

    @property
    def separation(self) -> SeparationPolicy:
        return self._separation

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
        current = self.current
        wanted = Policy(
            queue=change.queue or current.queue, router=change.router or current.router, pd=change.pd or current.pd
        )
        if wanted != self.current:
            self._made(wanted)
            await self._put(wanted)
            self._change(wanted)
        return PolicyReply(
            policy=self.current,
            known_queues=_known(QUEUE_POLICIES, self._default.queue),
            known_routers=_known(ROUTERS, self._default.router),
            known_pd=_known(SEPARATION_POLICIES, self._default.pd),
        )

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
        self._queue, self._router, self._separation = self._made(policy)
        self.current = policy
        log.info("policy_changed", queue=policy.queue, router=policy.router, pd=policy.pd)
        self._apply(PolicyChanged(self._queue, self._router, self._separation))

    def _made(self, policy: Policy) -> tuple[QueuePolicy, Router, SeparationPolicy]:
        """Return the named implementations; what is in force already is kept with its state."""
        own, now = self._default, self.current
        return (
            self._queue
            if policy.queue == now.queue
            else QUEUE_POLICIES.make(policy.queue, dotted=policy.queue == own.queue),
            self._router
            if policy.router == now.router
            else ROUTERS.make(policy.router, dotted=policy.router == own.router),
            self._separation
            if policy.pd == now.pd
            else SEPARATION_POLICIES.make(policy.pd, dotted=policy.pd == own.pd),
        )


def _known(registry: Registry[Any], own: str) -> list[str]:
    return sorted({*registry.known(), own})
