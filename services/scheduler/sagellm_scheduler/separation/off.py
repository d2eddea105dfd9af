"""Prefill and decode stay together."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.separation.policy import Alternatives, Verdict


class Off:
    """Every request is served by one engine, as long as one has room."""

    name = "off"
    predicts = False

    def separate(self, submit: Submit, alternatives: Alternatives) -> Verdict:
        return Verdict(is_apart=False, reason="")
