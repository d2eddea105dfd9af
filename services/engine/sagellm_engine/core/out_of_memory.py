"""Recognising a device that ran out of memory, and what to do about it."""

import errno

from sagellm_common.errors import ResourceExhausted

HINT = 'use dtype="float16", device_map="auto" or quantization, or a smaller max_model_len or max_batch_tokens'


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on the host or on a device."""
    text = str(error).lower()
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def out_of_memory(doing: str) -> ResourceExhausted:
    """Make the error; `doing` completes "while"."""
    return ResourceExhausted(f"the device ran out of memory while {doing}; {HINT}")
