"""Backends by name, and the memory they plan with."""

from dataclasses import dataclass

import pytest

from sagellm_common.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from sagellm_engine.backends import cpu, cuda, registry
from sagellm_engine.backends.memory import free_host_bytes, plan_pages
from sagellm_engine.core.config import EngineConfig


@dataclass
class Provider:
    """A backend that a package provides, and the entry point that names it."""

    name: str
    lacks: str | None = None
    value: str = "vendor.backend"

    def load(self, config: EngineConfig | None = None) -> "Provider":
        return self

    def missing(self) -> str | None:
        return self.lacks


@pytest.fixture
def provide(monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201 a function
    """Install providers for this test; say whether CUDA is there."""

    def install(*providers: Provider, has_cuda: bool = False) -> None:
        def points(*, group: str, name: str | None = None) -> list[Provider]:
            assert group == "sagellm.backends"
            return [provider for provider in providers if name in (None, provider.name)]

        monkeypatch.setattr(registry, "entry_points", points)
        monkeypatch.setattr(cuda, "missing", lambda: None if has_cuda else "torch sees no CUDA device")

    return install


@pytest.mark.acceptance(4)
def test_auto_takes_cuda_then_ascend_then_cpu(provide, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    """`auto` takes the first that can run, in that order, and never the mock."""
    ascend = Provider("ascend")
    provide(ascend, has_cuda=True)
    assert registry.choose_backend("auto") == ("cuda", cuda)
    provide(ascend)
    assert registry.choose_backend("auto") == ("ascend", ascend)
    provide(Provider("ascend", lacks="torch_npu is not installed"))
    assert registry.choose_backend("auto") == ("cpu", cpu)
    provide()
    monkeypatch.setattr(cpu, "missing", lambda: "torch is not installed")
    with pytest.raises(Unavailable, match="no backend can run here"):
        registry.choose_backend("auto")


@pytest.mark.acceptance(31)
def test_vendor_backend_plugs_in(provide) -> None:  # noqa: ANN001
    """A package's entry point is found by its name and listed among the known ones."""
    vendor = Provider("vendor")
    provide(vendor)
    assert registry.choose_backend("vendor") == ("vendor", vendor)
    assert registry.backend_names() == ["cpu", "cuda", "mock", "vendor"]


@pytest.mark.acceptance(31)
def test_a_named_backend_is_never_replaced(provide) -> None:  # noqa: ANN001
    """An unknown name is an error that lists the known ones; a known one that cannot run says why."""
    provide(Provider("vendor"))
    with pytest.raises(NotFound, match=r"'tpu'.*cpu, cuda, mock, vendor"):
        registry.choose_backend("tpu")
    with pytest.raises(NotFound):
        registry.choose_backend("ascend")
    with pytest.raises(Unavailable, match="no CUDA device"):
        registry.choose_backend("cuda")


MIB = 2**20


def pages(free: int = 0, max_model_len: int = 1600, **options: object) -> int:
    """Plan with pages of 1 MiB; a request of 1600 tokens needs 100."""
    config = EngineConfig(**options)  # type: ignore[arg-type]
    return plan_pages(config, page_bytes=MIB, free_bytes=free, max_model_len=max_model_len)


def test_pages_from_free_memory() -> None:
    """The pages fill what is free, but never more than all sequences at full length can use."""
    assert pages(150 * MIB + 5) == 150
    assert pages(10**15, max_num_seqs=3) == 300


def test_pages_as_told() -> None:
    """An explicit amount of memory or number of pages wins over what is free."""
    assert pages(10**15, kv_cache_memory_bytes=120 * MIB) == 120
    assert pages(0, num_pages=101) == 101


@pytest.mark.parametrize("options", [{}, {"kv_cache_memory_bytes": 99 * MIB}, {"num_pages": 99}], ids=str)
def test_a_start_that_cannot_hold_one_request_is_refused(options: dict[str, object]) -> None:
    """Too little memory for one request of max_model_len stops the start with a sentence that says what to change."""
    with pytest.raises(ResourceExhausted, match=r"set max_model_len to at most 1584.*kv_cache_memory_bytes"):
        pages(99 * MIB, **options)  # type: ignore[arg-type]


def test_free_memory_is_measured() -> None:
    """The measured memory is more than this test needs and less than any machine has."""
    assert 10 * MIB < free_host_bytes() < 2**50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_num_seqs", 0),
        ("num_pages", 0),
        ("max_model_len", -5),
        ("memory_utilization", 0.0),
        ("memory_utilization", 1.5),
        ("max_batch_tokens", 8),
    ],
)
def test_settings_that_cannot_work(name: str, value: float) -> None:
    """A setting out of range is refused by its name."""
    with pytest.raises(InvalidArgument) as caught:
        EngineConfig(**{name: value})  # type: ignore[arg-type]
    assert caught.value.param == name
