"""What the next hours bring: exponential smoothing with the season of a day (Holt and Winters), by statsmodels."""

import warnings
from collections.abc import Sequence

import numpy as np

from sagellm_common.errors import Unavailable

DAY = 24
LEAST_HOURS = 2 * DAY
AHEAD = 3


def next_hours(hours: Sequence[float]) -> list[float] | None:
    """Return the requests a second expected in the hour that runs and in the two after it, from the hours before.

    None with less than two days to learn from. Raises Unavailable if statsmodels is not installed.
    """
    if len(hours) < LEAST_HOURS:
        return None
    try:
        from statsmodels.tsa.holtwinters import ExponentialSmoothing
    except ImportError as error:
        raise Unavailable("forecasts need statsmodels: pip install 'sagellm[planner]'") from error
    series = np.asarray(hours, float)
    season = "mul" if series.min() > 0.0 else "add"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge to the last digit
        model = ExponentialSmoothing(series, seasonal=season, seasonal_periods=DAY, initialization_method="estimated")
        expected = model.fit().forecast(AHEAD)
    return [max(0.0, float(value)) for value in expected]
