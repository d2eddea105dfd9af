"""A simulated engine made after a real one: its time model fitted to step reports."""

from collections.abc import Sequence

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.reports import StepSample
from sagellm_common.errors import InvalidArgument
from sagellm_scheduler.perf_model.kinds import KindTimes
from sagellm_scheduler.perf_model.steps import SCALES, table
from sagellm_simulation.specs import EngineSpec

LEAST_SAMPLES = 16


def fitted_spec(registration: EngineRegistration, steps: Sequence[StepSample]) -> EngineSpec:
    """Return what computes as the reported steps say, with the engine's own sizes.

    Raises InvalidArgument for fewer than 16 steps.
    """
    if len(steps) < LEAST_SAMPLES:
        raise InvalidArgument(f"{len(steps)} steps tell too little of an engine: give {LEAST_SAMPLES} at least")
    times = KindTimes()
    times.add(table(list(steps)))
    base, prefill, decode, context, products, over = (float(value) for value in times.theta / SCALES)
    return EngineSpec(
        kind=registration.kind,
        base=base,
        prefill=prefill,
        decode=decode,
        context=context,
        chunk_x_context=products,
        over_knee=over,
        knee=int(times.knee),
        num_pages=registration.num_pages,
        max_batch_tokens=registration.max_batch_tokens,
        max_num_seqs=registration.max_num_seqs,
        max_model_len=registration.max_model_len,
        price_per_hour=registration.price_per_hour,
        role=registration.role,
        kv_bytes_per_token=registration.kv_bytes_per_token,
    )
