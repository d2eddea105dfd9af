"""Which assignments of the scheduler have reached this engine."""

from sagellm_common.contracts.base import LeaderEpoch

Mark = tuple[LeaderEpoch, int]
"""A leader epoch and the highest number under it: all assignments up to there have come."""

NOTHING: Mark = ((0, 0), 0)


class Assignments:
    """The highest number seen under the newest leader epoch; numbers start again with each leader."""

    def __init__(self) -> None:
        self.leader_epoch, self.last_number = NOTHING

    @property
    def mark(self) -> Mark:
        return self.leader_epoch, self.last_number

    def seen(self, leader_epoch: LeaderEpoch, number: int) -> None:
        """Note an assignment, whatever became of it; one of an older leader says nothing about the newest."""
        if leader_epoch > self.leader_epoch:
            self.leader_epoch, self.last_number = leader_epoch, number
        elif leader_epoch == self.leader_epoch:
            self.last_number = max(self.last_number, number)
