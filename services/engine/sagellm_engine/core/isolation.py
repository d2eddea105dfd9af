"""Running a step so that a fault hurts only the request that causes it."""

from collections.abc import Sequence

from sagellm_common.errors import Internal, SageError
from sagellm_engine.core.out_of_memory import is_out_of_memory, out_of_memory
from sagellm_engine.core.runner import Runner, StepResult
from sagellm_engine.core.sequence import SequenceState


def execute_isolated(runner: Runner, rows: Sequence[SequenceState]) -> StepResult:
    """Execute the rows; if that raises, halve them until the row is found that fails alone.

    Rows may be computed again, since a runner changes nothing but the KV positions that they cover. An
    out-of-memory that half the rows do not meet again therefore fails nobody.
    """
    try:
        return runner.execute(rows)
    except Exception as error:  # whatever a kernel or a library raises must not end the engine
        if len(rows) == 1:
            return StepResult([0], errors={0: step_error(error)})
    middle = len(rows) // 2
    first = execute_isolated(runner, rows[:middle])
    second = execute_isolated(runner, rows[middle:])
    first.token_ids.extend(second.token_ids)
    first.logprobs.update({middle + row: entry for row, entry in second.logprobs.items()})
    first.errors.update({middle + row: error for row, error in second.errors.items()})
    return first


def step_error(error: Exception) -> SageError:
    """Turn what a step raised into an error of the tree."""
    if isinstance(error, SageError):
        return error
    if is_out_of_memory(error):
        return out_of_memory("computing this request alone")
    return Internal(f"{type(error).__name__} while computing this request: {error}")
