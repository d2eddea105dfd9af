"""A simulated engine fitted to step reports computes as the one that has reported them."""

import random

import pytest

from sagellm_common.contracts.reports import StepSample
from sagellm_common.errors import InvalidArgument
from sagellm_simulation.fitting import fitted_spec
from sagellm_simulation.specs import H200_8B, MOCK, EngineSpec
from support.scheduling import registration


def steps_of(spec: EngineSpec, count: int, seed: int = 0) -> list[StepSample]:
    """Steps of all sizes, with three per cent of noise."""
    chance, made = random.Random(seed), []
    for _ in range(count):
        decode = chance.choice([0, 1, 4, 16, 64, 128])
        prefill = chance.choice([0, 0, 50, 400, 3000]) if decode else chance.choice([50, 400, 3000])
        context, products = decode * chance.randrange(100, 3000), prefill * chance.randrange(100, 3000)
        seconds = spec.seconds(prefill, decode, context, products) * chance.gauss(1.0, 0.03)
        made.append(StepSample(seconds, prefill + decode, prefill, decode, context, products))
    return made


@pytest.mark.parametrize("spec", [MOCK, H200_8B])
def test_steps_take_as_long(spec: EngineSpec) -> None:
    """Within a tenth over the sizes that were reported; sizes are those of the registration."""
    fitted = fitted_spec(registration(num_pages=77, max_num_seqs=5), steps_of(spec, 1500))
    assert (fitted.num_pages, fitted.max_num_seqs) == (77, 5)
    for prefill, decode, context, products in ((0, 1, 500, 0), (0, 64, 60_000, 0), (400, 16, 9000, 400_000)):
        real = spec.seconds(prefill, decode, context, products)
        assert fitted.seconds(prefill, decode, context, products) == pytest.approx(real, rel=0.1)


def test_a_few_steps_are_refused() -> None:
    """They would tell anything."""
    with pytest.raises(InvalidArgument, match="too little"):
        fitted_spec(registration(), steps_of(MOCK, 15))
