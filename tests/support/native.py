"""Using the CPU kernels with any instruction set that this processor has, and any number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager

from sagellm_engine.native.library import isa, library, set_threads

ISAS = ("avx2", "avx512", "avx512_vnni", "avx512_bf16")


@contextmanager
def instruction_set(name: str) -> Iterator[bool]:
    """Use an instruction set inside the block; gives False where the processor lacks it."""
    before = isa()
    yield library().sage_set_isa(name.encode()) == 0
    library().sage_set_isa(before.encode())


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with so many threads inside the block."""
    set_threads(number)
    yield
    set_threads(1)
