"""How much memory there is, and how many KV pages fit in it."""

from pathlib import Path

from sagellm_common.errors import ResourceExhausted
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.kv.pool import PAGE_SIZE

_CGROUP = Path("/sys/fs/cgroup")


def free_host_bytes() -> int:
    """Return the memory that this process may still take: of the machine, and of its control group if limited."""
    free = _meminfo_available()
    limit, used = _read_number(_CGROUP / "memory.max"), _read_number(_CGROUP / "memory.current")
    if limit is None:
        limit = _read_number(_CGROUP / "memory/memory.limit_in_bytes")
        used = _read_number(_CGROUP / "memory/memory.usage_in_bytes")
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def plan_pages(config: EngineConfig, *, page_bytes: int, free_bytes: int, max_model_len: int) -> int:
    """Return the number of KV pages, never more than `max_num_seqs` requests of `max_model_len` can use.

    `free_bytes` is what may be spent, weights and activations already taken off. Raises ResourceExhausted if not one
    request of `max_model_len` fits, saying what to change.
    """
    per_request = -(-max_model_len // PAGE_SIZE)
    if config.num_pages is not None:
        fitting = config.num_pages
    else:
        spendable = free_bytes if config.kv_cache_memory_bytes is None else config.kv_cache_memory_bytes
        fitting = min(max(spendable, 0) // page_bytes, per_request * config.max_num_seqs)
    if fitting < per_request:
        raise ResourceExhausted(
            f"the KV cache has room for {fitting} pages ({fitting * PAGE_SIZE} tokens), but one request of "
            f"max_model_len {max_model_len} needs {per_request} pages ({per_request * page_bytes / 2**20:.0f} MiB); "
            f"set max_model_len to at most {max(fitting * PAGE_SIZE, 1)}, or give the cache more memory "
            "(kv_cache_memory_bytes, memory_utilization)"
        )
    return fitting


def _meminfo_available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ResourceExhausted("the free memory cannot be measured here; set kv_cache_memory_bytes")


def _read_number(path: Path) -> int | None:
    """Return the number in a file; None if there is no such file or it says "max"."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="ascii").strip()
    return int(text) if text.isdigit() else None
