"""How predictions are corrected by what came."""

import numpy as np
import pytest

from sagellm_scheduler.perf_model.calibration import Calibration
from sagellm_scheduler.perf_model.forecast import Loads
from sagellm_scheduler.perf_model.model import PerformanceModel, Work


def test_what_lies_outside_of_the_engine_is_an_offset() -> None:
    """Twenty milliseconds more than predicted, whatever is predicted."""
    calibration = Calibration(1)
    for number in range(400):
        predicted_s = 0.05 + 0.05 * (number % 7)
        calibration.observe((predicted_s,), predicted_s + 0.02)
    offset, weight, _ = calibration.line
    assert offset == pytest.approx(0.02, rel=0.2)
    assert weight == pytest.approx(1.0, rel=0.1)


def test_a_busy_hour_says_nothing_wrong_about_an_idle_one() -> None:
    """A full engine always had 60 ms a token where 40 were predicted: an idle one with 8 is not thought to have 30."""
    calibration = Calibration(2, has_offset=False)
    for number in range(400):
        predicted_s = 0.04 + 0.0005 * (number % 5)
        calibration.observe((predicted_s, predicted_s), 0.06 + 0.0005 * (number * 3 % 5))
    offset, own, fleet, _ = calibration.line
    assert offset == 0.0
    assert (own + fleet) * 0.008 == pytest.approx(0.012, rel=0.1)


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_what_is_said_to_be_likely_happens_as_often(noise: float) -> None:
    """First tokens take a fifth longer than the step times alone say, and scatter: of those predicted anew as many come
    within a limit as was said, for near limits and far ones, after outliers, too."""
    model, chance = PerformanceModel(), np.random.default_rng(1)
    loads = Loads.zeros(1)
    loads.coefficients[0, :3], loads.budget[:] = (0.005, 1e-4, 1e-4), 8192.0
    loads.kind[:] = model.number("k")
    prompts = chance.integers(100, 4000, 1200)
    raw = 0.005 + 1e-4 * prompts
    came = 1.2 * raw * np.exp(chance.normal(0.0, noise, len(raw)))
    came[::50] *= 20.0
    for raw_s, came_s in zip(raw[:600].tolist(), came[:600].tolist(), strict=True):
        model.first_token_came("k", raw_s, came_s)
    for factor in (0.9, 1.1, 1.2, 1.4):
        likely = [
            model.forecast(loads, Work(context=prompt, answer=100.0), np.zeros(1)).first_within(factor * raw_s)[0]
            for prompt, raw_s in zip(prompts[600:].tolist(), raw[600:].tolist(), strict=True)
        ]
        happened = np.mean(came[600:] <= factor * raw[600:])
        assert np.mean(likely) == pytest.approx(happened, abs=0.1)
