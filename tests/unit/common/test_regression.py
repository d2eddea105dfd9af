"""The regression behind all predictions: it finds the line, follows a change, and shrugs off outliers."""

import numpy as np
import pytest

from sagellm_common.regression import RobustRegression, non_negative

TRUE = np.array([0.004, 0.02, 0.003])


def samples(num: int, theta: np.ndarray = TRUE, *, seed: int = 0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Random features of the order of 1 and what they come to, with relative noise."""
    random = np.random.default_rng(seed)
    x = np.column_stack([np.ones(num), random.uniform(0, 2, num), random.uniform(0, 3, num)])
    return x, (x @ theta) * np.exp(noise * random.standard_normal(num))


def error(regression: RobustRegression, theta: np.ndarray = TRUE) -> float:
    """Mean relative error of the predictions on fresh samples."""
    x, y = samples(200, theta, seed=99, noise=0.0)
    return float(np.mean(np.abs(x @ regression.theta / y - 1)))


def test_it_finds_the_line_from_a_prior_that_is_far_off() -> None:
    """After 200 samples it is 1 % off in the mean, though it believed ten times as much at first."""
    regression = RobustRegression(TRUE * 10)
    x, y = samples(200)
    for start in range(0, 200, 20):
        regression.observe(x[start : start + 20], y[start : start + 20])
    assert error(regression) < 0.01


def test_outliers_hardly_move_it() -> None:
    """One step in ten takes ten times as long; the others are predicted within 3 % in the mean."""
    x, y = samples(600)
    y[::10] *= 10
    regression = RobustRegression(TRUE * 2)
    for start in range(0, 600, 20):
        regression.observe(x[start : start + 20], y[start : start + 20])
    assert error(regression) < 0.03


def test_it_follows_a_machine_that_has_become_slower() -> None:
    """1,500 samples after the machine has become three times slower, it is 3 % off in the mean."""
    regression = RobustRegression(TRUE)
    regression.observe(*samples(500))
    x, y = samples(1500, 3 * TRUE, seed=1)
    for start in range(0, 1500, 50):
        regression.observe(x[start : start + 50], y[start : start + 50])
    assert error(regression, 3 * TRUE) < 0.03


def test_what_samples_say_nothing_about_stays_at_the_prior() -> None:
    """A feature that is always 0 keeps its prior, however many samples come."""
    x, y = samples(1000, np.array([0.004, 0.02, 0.0]))
    x[:, 2] = 0.0
    regression = RobustRegression(np.array([0.01, 0.01, 0.007]))
    regression.observe(x, y)
    assert regression.theta[2] == pytest.approx(0.007)


def test_the_spread_is_that_of_the_noise() -> None:
    """The relative error's standard deviation and quantiles are those of the noise that was put in."""
    regression = RobustRegression(TRUE)
    x, y = samples(2000, noise=0.1)
    for start in range(0, 2000, 100):
        regression.observe(x[start : start + 100], y[start : start + 100])
    assert regression.spread() == pytest.approx(0.1, rel=0.25)
    assert regression.ratio(0.9) == pytest.approx(np.exp(1.2816 * 0.1), rel=0.05)


def test_no_unknown_is_negative() -> None:
    """Where the unconstrained solution is negative, the constrained one is 0 there and best elsewhere."""
    x = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    theta = non_negative(x.T @ x, x.T @ np.array([3.0, 2.0, 1.0]))
    assert theta[1] == 0.0
    assert theta[0] == pytest.approx(2.0)
