"""A few steps measured at the start, so that the scheduler can predict this engine before it has served anybody."""

import time
from collections.abc import Callable
from dataclasses import replace

from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import EngineRequest, SamplingParams, StepReport

WARM_UP = (1, 16, 2)
WORK = ((1, 16, 3), (8, 32, 3), (1, 256, 2), (32, 16, 3), (1, 1024, 2))
"""Sequences at once, tokens of each prompt, tokens of each answer."""

LIMIT_S = 0.5


def measure_steps(core: EngineCore, *, clock: Callable[[], float] = time.perf_counter) -> tuple[StepReport, ...]:
    """Compute made-up requests on an idle core's runner for half a second at most, and return the steps.

    A core of its own does it, so that nothing of it is left behind but what the core's pace learns of them. What does
    not fit the engine is left out.
    """
    trial = EngineCore(replace(core.config, prefix_cache=False), core.runner, clock=clock)
    end = clock() + LIMIT_S
    _run(trial, *WARM_UP, end, clock)
    reports = tuple(report for work in WORK for report in _run(trial, *work, end, clock))
    for report in reports:
        core.pace.observe(report)
    return reports


def _run(
    core: EngineCore, num_seqs: int, prompt: int, answer: int, end: float, clock: Callable[[], float]
) -> list[StepReport]:
    info, num_seqs = core.info, min(num_seqs, core.config.max_num_seqs)
    too_much = num_seqs * (prompt + answer + info.page_size) > info.num_pages * info.page_size
    if too_much or prompt + answer > info.max_model_len or clock() >= end:
        return []
    sampling = SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True)
    for number in range(num_seqs):
        token_ids = [(number + 7919 * place) % info.vocab_size for place in range(prompt)]
        key = (f"self-benchmark-{num_seqs}x{prompt}+{answer}-{number}", 1)
        core.submit(EngineRequest(key=key, prompt_token_ids=token_ids, sampling=sampling), clock())
    reports = []
    while core.has_work():
        report = core.step(clock()).report
        if report.rows:
            reports.append(report)
    return reports
