"""The same user or session on the same engine."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.routing.rendezvous import highest, stable_hash
from sagellm_scheduler.routing.router import Candidates, Choice


class Affinity:
    """Rendezvous hashing of the session, else of the user; a request with neither goes to the least loaded engine.

    While the engine of a session has no room, its requests go to the next engine of the session's own order.
    """

    name = "affinity"

    def choose(self, submit: Submit, candidates: Candidates) -> Choice:
        if submit.session is not None:
            kind, value = "session", submit.session
        elif submit.user is not None:
            kind, value = "user", submit.user
        else:
            return Choice(candidates.least_loaded(), "least loaded, for neither session nor user is stated")
        key = stable_hash(f"{submit.tenant}/{kind}/{value}")
        return Choice(highest(key, candidates.hashes), f"first with room in the order of its {kind}")
