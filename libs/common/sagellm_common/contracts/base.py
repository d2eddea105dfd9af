"""Base of the public and cold messages."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A message on the bus: unknown fields are ignored, so that versions can be mixed; values are immutable."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


LeaderEpoch = tuple[int, int]
"""Creation time of the lease's stream in ns, and the revision under which the lease was taken; compares by order."""
