"""The random integers are Philox4x32-10's, by the published vectors and by an independent implementation."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_engine.sampling.noise import MAX_NOISE, MIN_NOISE, gumbel_all, gumbel_at, noise_source
from sagellm_engine.sampling.philox import Words, philox, uniform
from support.sequences import sequence

WORD = st.integers(0, 2**32 - 1)

# Known-answer vectors of the Random123 distribution (kat_vectors, "philox4x32 10"): counter, key, result
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def plain_philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Compute Philox4x32-10 on Python's integers, written from the paper."""
    (a, b, c, d), (key_0, key_1) = counter, key
    for _ in range(10):
        high_0, low_0 = divmod(a * 0xD2511F53, 2**32)
        high_1, low_1 = divmod(c * 0xCD9E8D57, 2**32)
        a, b, c, d = high_1 ^ b ^ key_0, low_1, high_0 ^ d ^ key_1, low_0
        key_0, key_1 = (key_0 + 0x9E3779B9) % 2**32, (key_1 + 0xBB67AE85) % 2**32
    return a, b, c, d


def torch_philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Compute the same with the engine's implementation."""
    words = philox(Words(*(torch.tensor([word]) for word in counter)), *(torch.tensor([word]) for word in key))
    return tuple(int(word) for word in words)


def test_known_answers() -> None:
    """Both implementations give the published results."""
    for counter, key, expected in KNOWN_ANSWERS:
        assert plain_philox(counter, key) == expected
        assert torch_philox(counter, key) == expected


@settings(deadline=None, max_examples=200)
@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_equals_plain_integers(counter: tuple[int, ...], key: tuple[int, ...]) -> None:
    """For any counter and key the words are those of plain integer arithmetic."""
    assert torch_philox(counter, key) == plain_philox(counter, key)


def expected_noise(seed: int, position: int, stream: int, token: int) -> float:
    """Compute the noise of one token from the definition, in float64."""
    key = (seed % 2**32, seed % 2**64 >> 32)
    word = plain_philox((position, stream, token // 4, 0), key)[token % 4]
    return -math.log(-math.log(((word >> 9) + 0.5) * 2.0**-23))


def test_noise_layout() -> None:
    """Key is the seed, the counter is (position, stream, id // 4, 0), an id takes word id % 4."""
    rows = [
        sequence(range(2, 11), temperature=1.0, seed=12345678901234567890),
        sequence([5], temperature=1.0, seed=-1, num_choices=8, choice=7),
    ]
    source = noise_source(rows, torch.device("cpu"))
    everything = gumbel_all(source, 101)
    assert everything.shape == (2, 101)
    for row, (seed, position, stream) in enumerate([(12345678901234567890, 9, 0), (-1, 1, 7)]):
        for token in range(101):
            expected = expected_noise(seed, position, stream, token)
            assert abs(float(everything[row, token]) - expected) < 1e-5 * max(1.0, abs(expected))


def test_noise_of_single_ids() -> None:
    """Noise of chosen ids is bit for bit that of the whole vocabulary."""
    rows = [sequence([1, 2, 3], temperature=1.0, seed=seed) for seed in range(5)]
    source = noise_source(rows, torch.device("cpu"))
    ids = torch.randint(0, 1000, (5, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(gumbel_at(source, ids), gumbel_all(source, 1000).gather(1, ids))


def test_uniform_stays_inside() -> None:
    """The extreme words map to numbers strictly between 0 and 1, and bound the noise as the sampler assumes."""
    extremes = uniform(torch.tensor([0, 2**32 - 1]))
    assert extremes.tolist() == [2.0**-24, 1.0 - 2.0**-24]
    noise = -torch.log(-torch.log(extremes))
    assert float(noise[0]) >= MIN_NOISE
    assert float(noise[1]) <= MAX_NOISE
