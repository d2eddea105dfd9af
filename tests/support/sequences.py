"""Sequences as a runner sees them, without a core around them."""

from collections.abc import Iterable

from sagellm_engine.core.sequence import SequenceState
from support.engine import request


def sequence(
    prompt: Iterable[int],
    *,
    output: Iterable[int] = (),
    choice: int = 0,
    stop_ids: Iterable[int] = (),
    order: int = 0,
    **options: object,
) -> SequenceState:
    """Make a sequence with some output already; other options are those of `request`."""
    item = request(prompt, **options)  # type: ignore[arg-type] # the options of request, whatever their types
    seq = SequenceState(item, choice, stop_ids=frozenset(stop_ids), max_model_len=100_000, order=order)
    seq.tokens.extend(output)
    return seq
