"""Prompts that begin alike on the same engine, where the prefix may be cached."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.routing.rendezvous import highest
from sagellm_scheduler.routing.router import Candidates, Choice


class Locality:
    """Rendezvous hashing of the prompt's first 256 tokens; a request without that goes to the least loaded engine."""

    name = "locality"

    def choose(self, submit: Submit, candidates: Candidates) -> Choice:
        if submit.prefix_hash == 0:
            return Choice(candidates.least_loaded(), "least loaded, for the prompt's hash is not stated")
        return Choice(highest(submit.prefix_hash, candidates.hashes), "first with room in the order of its prefix")
