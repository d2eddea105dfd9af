"""Tables and a picture of what `benchmarks.engine` measured."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.peers.session import WORKLOADS
from benchmarks.roofline import MODES, tokens_per_s

GROUPS = {"lossless": "16- or 32-bit weights", "int8": "INT8 weights", "int4": "INT4 weights"}
PEERS_OF = {"lossless": ("lossless",), "int8": ("int8",), "int4": ("int8", "int4")}
"""The groups whose peers a group is held against: INT4 against those with INT8 too."""
LIMITS = {"read": "GB/s read", "fp32": "fp32", "bf16": "bf16", "int8": "INT8", "int4": "INT4"}
KINDS = {
    "sageLLM, bf16": "bf16 / bf16 / bf16",
    "sageLLM, fp32 activations": "bf16 / fp32 / fp32",
    "sageLLM, INT8": "INT8 / INT8 per token / bf16",
    "sageLLM, INT4": "INT4 by 32 / INT8 per token / bf16",
}
COLOURS = {
    "sageLLM": ("#1b6ca8", "#74b3d8"),
    "OpenVINO": ("#c8553d", "#e39774"),
    "vLLM": ("#5c8a64", "#a8c3a0"),
    "llama.cpp": ("#999999",),
    "CTranslate2": ("#8d6a9f",),
}
FP32 = ("fp32", "f32")


def is_ours(row: dict[str, Any]) -> bool:
    """Whether a row is our engine's."""
    return str(row["name"]).startswith("sageLLM")


def has_fp32(row: dict[str, Any]) -> bool:
    """Whether an engine computes with fp32 activations, as its name says."""
    return any(word in row["name"] for word in FP32)


def best_peers(result: dict[str, Any], group: str, row: dict[str, Any]) -> dict[str, float]:
    """The rate of the fastest other engine by workload: of the class, or of those with fp32 activations if ours has."""
    rows = [peer for name in PEERS_OF[group] for peer in result["groups"].get(name, []) if not is_ours(peer)]
    rows = [peer for peer in rows if has_fp32(peer) or not has_fp32(row)]
    return {name: max(peer["tokens_per_s"][name] for peer in rows) for name in WORKLOADS} if rows else {}


def ratios(result: dict[str, Any], group: str, row: dict[str, Any]) -> dict[str, float]:
    """Ours over its best peer, by workload and as the geometric `mean`."""
    best = best_peers(result, group, row)
    found = {name: round(row["tokens_per_s"][name] / rate, 3) for name, rate in best.items()}
    return {**found, "mean": round(statistics.geometric_mean(found.values()), 3)} if found else {}


def summary(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What the goals are held against: by group, our first mode's ratios and the `least` of them, lossless W4 apart."""
    found = {}
    for group in result["groups"]:
        row = next(row for row in result["groups"][group] if is_ours(row))
        of_row = ratios(result, group, row)
        if of_row:
            rows = [rate for name, rate in of_row.items() if name != "mean" and (group, name) != ("lossless", "W4")]
            found[group] = {**of_row, "least": min(rows)}
    return found


def roofline_shares(result: dict[str, Any], row: dict[str, Any]) -> dict[str, float]:
    """What share of the machine's limit a row of ours reaches."""
    mode = MODES[row["name"]]
    return {
        name: rate
        / tokens_per_s(
            result["config"], name, mode, result["limits"], row.get("read_bytes"), screens=row.get("screens", False)
        )
        for name, rate in row["tokens_per_s"].items()
    }


def section(shape: str, result: dict[str, Any]) -> list[str]:
    """One shape on our engine and on others, measured in turn."""
    limits = ", ".join(f"{result['limits'][key]:,g} {text}" for key, text in LIMITS.items() if key in result["limits"])
    parts = [
        f"## {shape} on the CPU, beside other engines",
        f"Tokens a second, medians of {result['rounds']} rounds in turn (W1 to W3: generated tokens, W4: all): W1 one "
        "request, W2 8, W3 32 of 128 tokens in and 64 out; W4 8 of 1,024 in and 8 out. "
        f"{result['threads']} threads. The machine's limits in the same run (10⁹ operations a second): {limits}. "
        "The roofline is the time of all operations at the limit of their kind and of all bytes at the read limit, "
        "whichever is longer in a step; a share above 100 % was measured in a faster minute of this virtual machine "
        "than its limit was.",
        f"![tokens a second by engine, ours = 1](images/engine_{shape}.svg)",
    ]
    for group, title in GROUPS.items():
        if group in result["groups"]:
            parts.append(f"**{title}**\n\n{_table(result, group)}")
    if shape == "qwen05" and "lossless" in result["groups"]:
        parts.append(_what_bounds_lossless(result))
    return parts


def _what_bounds_lossless(result: dict[str, Any]) -> str:
    """What bounds the lossless rows of the larger shape."""
    row = next(row for row in result["groups"]["lossless"] if is_ours(row))
    share = roofline_shares(result, row)
    return (
        "**What bounds lossless on this shape.** W1 and the decoding of W2 read their weights at the rate that memory "
        "gives: this virtual machine's varies between 39 and 68 GB/s from minute to minute with what its neighbours do "
        f"(the limit of this run: {result['limits']['read']:.0f}). Ours take 12 bits each where others "
        "read 16, and find greedy tokens by a copy of the output layer in INT8, which tells which few logits need be "
        "computed; the tokens are those of all logits (docs/engine.md), and the roofline counts the copy. W4 is "
        f"products of bf16, which run at {share['W4']:.0%} of what the processor's units do; beside that, ours saves "
        "the last layer behind its keys and values, for rows that get no logits. Prefill is two fifths "
        "of W2 and three fifths of W3, and 32 rows of W3 compute for about as long as they read."
    )


def _table(result: dict[str, Any], group: str) -> str:
    names = list(WORKLOADS)
    lines = [f"| engine | weights / activations / KV | {' | '.join(names)} | mean | start |", "|---" * 8 + "|"]
    rows = result["groups"][group]
    for row in rows:
        kinds = KINDS.get(row["name"]) or f"{row['weights']} / {row['activations']} / {row['kv']}"
        rates = " | ".join(f"{row['tokens_per_s'][name]:,.0f}" for name in names)
        lines.append(f"| {row['name']} | {kinds} | {rates} | | {row['start_s']:.1f} s |")
    for row in filter(is_ours, rows):
        found = ratios(result, group, row)
        if found:
            cells = " | ".join(f"**{found[name]:.2f}**" for name in (*names, "mean"))
            lines.append(f"| {row['name']} / {_rival(group, row)} | | {cells} | |")
        shares = roofline_shares(result, row)
        lines.append(f"| {row['name']} / its roofline | | {' | '.join(f'{shares[n]:.0%}' for n in names)} | | |")
    return "\n".join(lines)


def _rival(group: str, row: dict[str, Any]) -> str:
    if len(PEERS_OF[group]) > 1:
        return "best INT8 or INT4 peer"
    return "best peer with them" if has_fp32(row) else "best peer"


def _colour(rows: list[dict[str, Any]], place: int) -> str:
    engine = str(rows[place]["name"]).split(",")[0]
    earlier = sum(str(row["name"]).startswith(engine) for row in rows[:place])
    return COLOURS[engine][earlier % len(COLOURS[engine])]


def draw(shape: str, result: dict[str, Any], folder: Path) -> None:
    """Write the picture: every engine's rate with ours as 1, class by class."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sagellm"
    from matplotlib import pyplot

    groups = [group for group in GROUPS if group in result["groups"]]
    figure, axes = pyplot.subplots(1, len(groups), figsize=(5.2 * len(groups), 3.6), squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        rows = result["groups"][group]
        width = 0.8 / len(rows)
        for place, row in enumerate(rows):
            heights = [row["tokens_per_s"][name] / rows[0]["tokens_per_s"][name] for name in WORKLOADS]
            at = [x - 0.4 + width * (place + 0.5) for x in range(len(WORKLOADS))]
            axis.bar(at, heights, width * 0.92, label=row["name"], color=_colour(rows, place))
        axis.set_xticks(range(len(WORKLOADS)), list(WORKLOADS))
        axis.set_title(GROUPS[group])
        axis.set_ylim(0, 1.75)
        axis.legend(fontsize=7, ncol=2, loc="upper left", frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("tokens a second, the first = 1")
    figure.tight_layout()
    figure.savefig(folder / f"engine_{shape}.svg", metadata={"Date": None})
    pyplot.close(figure)
