"""The library's random numbers are those of the golden table."""

import numpy as np
import pytest

from sagellm_engine.native.library import library

GOLDEN = [
    # Random123's known answers: counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), GOLDEN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]) -> None:
    """Philox4x32-10 gives the published words."""
    given, under, out = np.array(counter, np.uint32), np.array(key, np.uint32), np.zeros(4, np.uint32)
    library().sage_philox(given.ctypes.data, under.ctypes.data, out.ctypes.data)
    assert tuple(int(word) for word in out) == words
