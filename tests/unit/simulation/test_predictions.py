"""How far off predictions are, in virtual time, where nothing but what is to come is unknown."""

import random

import numpy as np
import pytest

from sagellm_common.contracts.slo import Slo
from sagellm_simulation.report import Summary, summarise
from sagellm_simulation.specs import H200_8B, EngineSpec
from sagellm_simulation.trace import Trace, TraceRequest, conversations
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


def test_half_as_much_again_as_can_be_borne_costs_no_goodput() -> None:
    """What does not fit is refused where requests state their SLO, or else gives way: as many as at the full load are
    answered in time. In order of arrival hardly any are."""
    slo = Slo(ttft_ms=500.0, itl_ms=15.0)

    def play(per_s: float, slack: float | None, queue: str = "slo_aware") -> Summary:
        scenario = Scenario(engines=(H200_8B, H200_8B), queue=queue, slo=slo, admission_slack=slack)
        return summarise(simulate(scenario, conversations(1200, 1, per_s).with_slo(slo)), slo)

    full, over, giving_way, in_order = play(36.0, None), play(54.0, 1.0), play(54.0, None), play(54.0, None, "fifo")
    assert full.attainment > 0.94
    assert over.goodput >= full.goodput
    assert over.refused > 0
    assert giving_way.goodput >= full.goodput
    assert in_order.goodput < 0.6 * full.goodput
