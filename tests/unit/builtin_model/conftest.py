"""Makes the training package importable: it is a program of the repository and is never installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "training"))
