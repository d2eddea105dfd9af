"""How predictions are corrected by what came."""

import pytest

from sagellm_scheduler.perf_model.calibration import Calibration


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
