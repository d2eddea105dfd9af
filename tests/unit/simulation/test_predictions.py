"""How far off predictions are, in virtual time, where nothing but what is to come is unknown."""

import random

import numpy as np
import pytest

from sagellm_simulation.specs import EngineSpec
from sagellm_simulation.trace import Trace, TraceRequest
from sagellm_simulation.world import Scenario, simulate

ENGINE = EngineSpec(
    kind="test", base=8e-3, prefill=1e-4, decode=2e-4, context=0.0, chunk_x_context=0.0, num_pages=65_536
)
FULL_PER_S = 31.0
WARM_UP = 300


def _traffic(per_s: float, count: int) -> Trace:
    chance = random.Random(3)
    at, requests = 0.0, []
    for number in range(count):
        at += chance.expovariate(per_s)
        prompt, answer = 1 + int(chance.lognormvariate(5.3, 0.9)), 1 + int(chance.lognormvariate(3.7, 0.8))
        requests.append(TraceRequest(request_id=f"r{number}", at=at, prompt_tokens=prompt, output_tokens=answer))
    return Trace("test", requests)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_the_first_token_is_predicted(load: float) -> None:
    """Within 10 % in the median and 30 % for nine of ten, on two engines at 30 and 70 % of what they can do."""
    result = simulate(Scenario(engines=(ENGINE, ENGINE)), _traffic(load * FULL_PER_S, 1500))
    errors = [abs(record.ttft_error) for record in result.records[WARM_UP:] if record.ttft_error is not None]
    assert len(errors) > 1000
    assert np.quantile(errors, 0.5) <= 0.10
    assert np.quantile(errors, 0.9) <= 0.30
