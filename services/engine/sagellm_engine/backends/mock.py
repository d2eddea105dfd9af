"""The `mock` backend: no weights, no torch; a deterministic token source with a time model.

A token is a function of the prompt and of its place in the output alone, and above temperature 0 of the seed and the
choice, so that any two mock engines continue the same stream. Every token is as good as another: other sampling
options, `max_tokens` and the stop tokens apart, do nothing.

Its pages hold token ids in the place of keys and values, and the stream is made of what those of the prompt hold: pages
that are wrong make a wrong stream.
"""

import ctypes
import mmap
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import cast
from zlib import crc32

from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.core.runner import StepResult
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import ModelInfo, TokenLogprobs
from sagellm_engine.kv.pool import PAGE_SIZE
from sagellm_engine.transfer.layout import TOKENS, KvLayout

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: a Weyl sequence over positions
_MIX = 0xBF58476D1CE4E5B9  # first multiplier of splitmix64 (Steele, Lea, Flood 2014)
DEFAULT_NUM_PAGES = 65536
TOKEN_BYTES = 8
PAGE_BYTES = PAGE_SIZE * TOKEN_BYTES


def missing() -> str | None:
    """Return None: it runs anywhere."""
    return None


def load(config: EngineConfig) -> "MockRunner":
    """Make a mock runner; a model path is accepted and not read."""
    return MockRunner(config)


class MockRunner:
    """A runner that makes tokens up and sleeps as long as the time model says."""

    max_batch_tokens = 8192

    def __init__(self, config: EngineConfig, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._mock: MockConfig = config.mock
        self._sleep = sleep
        eos = self._mock.eos_token_id
        self.info = ModelInfo(
            vocab_size=self._mock.vocab_size,
            max_model_len=config.max_model_len or self._mock.max_model_len,
            num_pages=config.num_pages or DEFAULT_NUM_PAGES,
            page_size=PAGE_SIZE,
            eos_token_ids=frozenset() if eos is None else frozenset((eos,)),
            backend="mock",
            kind=f"mock-{self._mock.vocab_size}",
        )
        size = self.info.num_pages * PAGE_BYTES
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._tokens = memoryview(self._memory).cast("q")
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def execute(self, rows: Sequence[SequenceState]) -> StepResult:
        """Make up one token per row and let the modelled time pass."""
        vocab_size = self._mock.vocab_size
        tokens: list[int] = []
        for seq in rows:
            self._write(seq)
            if not seq.samples:
                tokens.append(0)
                continue
            base = seq.runner_state
            if base is None:
                base = seq.runner_state = _base(seq, self._held(seq))
            mixed = ((cast(int, base) + len(seq.tokens) * _STEP) & _MASK) * _MIX
            tokens.append(((mixed >> 32) & 0xFFFFFFFF) % vocab_size)
        self._let_time_pass(rows)
        return StepResult(tokens, logprobs=self._logprobs(rows, tokens))

    def _write(self, seq: SequenceState) -> None:
        """Put the tokens that are computed into their pages: an answer may be part of the next prompt."""
        place, stop = seq.num_computed, seq.num_computed + seq.num_scheduled
        while place < stop:
            number, slot = divmod(place, PAGE_SIZE)
            end = min(stop, place - slot + PAGE_SIZE)
            first = seq.pages[number] * PAGE_SIZE + slot
            self._tokens[first : first + end - place] = array("q", seq.tokens[place:end])
            place = end

    def _held(self, seq: SequenceState) -> bytes:
        """Return what the pages of a prompt hold."""
        pages = seq.pages[: -(-seq.num_prompt // PAGE_SIZE)]
        return b"".join(self._memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] for page in pages)

    def clear_pages(self, pages: Iterable[int]) -> None:
        """Set pages to zero."""
        for page in pages:
            self._memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(PAGE_BYTES)

    def kv_layout(self, model: str) -> KvLayout:
        """Describe the memory of the pages; `model` names who makes the same tokens."""
        return KvLayout(
            model=model,
            keys="plain",
            order=TOKENS,
            dtype="int64",
            num_layers=1,
            first_head=0,
            num_heads=1,
            head_dim=1,
            page_size=PAGE_SIZE,
            num_pages=self.info.num_pages,
            address=self._address,
            num_planes=1,
            plane_bytes=self.info.num_pages * PAGE_BYTES,
            page_bytes=PAGE_BYTES,
        )

    def close(self) -> None:
        """Do nothing: there is no memory to give back."""

    def _let_time_pass(self, rows: Sequence[SequenceState]) -> None:
        mock = self._mock
        if not (mock.step_base_ms or mock.ms_per_prefill_token or mock.ms_per_decode_seq):
            return
        num_decode = sum(1 for seq in rows if seq.num_scheduled == 1)
        num_prefill = sum(seq.num_scheduled for seq in rows if seq.num_scheduled > 1)
        milliseconds = mock.step_base_ms + num_prefill * mock.ms_per_prefill_token + num_decode * mock.ms_per_decode_seq
        self._sleep(milliseconds / 1e3)

    def _logprobs(self, rows: Sequence[SequenceState], tokens: list[int]) -> dict[int, TokenLogprobs]:
        size = self._mock.vocab_size
        return {
            row: TokenLogprobs(0.0, tuple(((tokens[row] + i) % size, -float(i)) for i in range(seq.sampling.logprobs)))
            for row, seq in enumerate(rows)
            if seq.sampling.logprobs is not None
        }


def _base(seq: SequenceState, held: bytes) -> int:
    """Return what all tokens of a choice have in common: the prompt, as its pages hold it, and, unless greedy, seed
    and choice; 64 bits."""
    prompt = crc32(held[: seq.num_prompt * TOKEN_BYTES])
    sampled = (seq.sampling.seed, seq.choice) if seq.sampling.temperature > 0 else None
    mixed = (prompt << 32 | crc32(repr(sampled).encode())) * _STEP
    # tokens are counted from the start of the prompt; take its length out, so that index 0 is index 0
    return (mixed - seq.num_prompt * _STEP) & _MASK
