"""Message types: everything that travels on the bus, one small file per conversation.

Public and cold messages are pydantic models (`base.Message`); hot ones are slots dataclasses packed as arrays
(`packed.Packed`). `catalog` says which message travels on which subject.
"""
