"""Texts and tables of what the CPU engine was measured at alone: quality, start, long prompts, ten minutes."""

from typing import Any

MODE_NAMES = {"bf16": "bf16", "fp32": "fp32 activations", "int8": "INT8", "int4": "INT4"}
PRODUCTS = ("qkv", "o", "gate_up", "down", "lm_head")
PARTS = ("outside", "embed", "norm", "qkv", "rotary", "attention", "o", "gate_up", "form", "down", "lm_head")


def table(head: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def quality(result: dict[str, Any]) -> list[str]:
    """What quantization costs."""
    rows: list[list[object]] = []
    for mode, found in result["modes"].items():
        shares = [f"{100 * share:.1f}" for share in found["accuracy"].values()]
        outliers = f"{found['outliers']['perplexity']:.4f} / {found['outliers']['kl']:.6f}"
        rows.append([mode, f"{found['perplexity']:.4f}", f"{found['kl']:.6f}", *shares, outliers])
    skills = list(next(iter(result["modes"].values()))["accuracy"])
    return [
        "## Quality of the quantized modes",
        f"The built-in model over {result['tokens']:,} held-out tokens: perplexity and KL divergence from the lossless "
        f"mode (nats a token), right answers of {result['cases']} a skill in %, and the first two for a copy with "
        "outlier channels (1 % of gains, values and up channels × 64, undone exactly in the next layer).",
        table(["mode", "perplexity", "KL", *skills, "outlier copy: perplexity / KL"], rows),
    ]


def cpu_engine(result: dict[str, Any]) -> list[str]:
    """Start, memory, prompts, sampling, and the profile of steps."""
    starts: list[list[object]] = [
        [
            MODE_NAMES[mode],
            f"{row['warm_s']} s",
            f"{row['cold_s']} s",
            f"{row['packed_mib']} MiB",
            f"{row['first_token_added_mib']} MiB",
            f"{row['loaded_added_mib']} MiB ({row['loaded_added_share']:.0%})",
        ]
        for mode, row in result["start"].items()
    ]
    prefix, sampling = result["prefix"], result["sampling"]
    return [
        "## The CPU engine alone, 135M shape",
        table(
            [
                "mode",
                "start to first token",
                "nothing packed yet",
                "packed weights",
                "added by then",
                "after 32 requests",
            ],
            starts,
        ),
        "Added: anonymous memory beyond a process that has only imported, pages of keys and values left out.",
        *(_prefill(MODE_NAMES[mode], row) for mode, row in result["prefill"].items()),
        f"A prompt with 1,024 known tokens and 32 new ones: {prefix['later_ms']} ms to the first token, "
        f"{prefix['first_ms']} ms when nothing is known. W3 sampled (temperature 0.8, top-p 0.95, penalties): "
        f"{sampling['sampled']:,.0f} tokens/s, greedy {sampling['greedy']:,.0f}.",
        "**Where the time of a step goes** (ms; `outside`: scheduling, sampling and all else that is not the forward "
        "pass; `norm` and `form` bring rows into the form that products take)",
        _phases(result["phases"]),
        _below_roofline(result),
    ]


def _below_roofline(result: dict[str, Any]) -> str:
    """Where the time goes that the rooflines of the tables beside other engines do not know."""
    phases, rates, others = result["phases"], [], []
    for mode in ("bf16", "int8", "int4"):
        step = phases[mode]["W1"]["decode"]
        reading = sum(step[part] for part in PRODUCTS)
        rates.append(f"{result['start'][mode]['packed_mib'] * 1.048576 / reading:.0f}")
        others.append(f"{1 - reading / step['step']:.0%}")
    rows = phases["bf16"]["W3"]["decode"]
    return (
        "**Why W1 to W3 stay below their rooflines.** The roofline counts bytes and operations at the machine's best "
        f"rates and nothing else. In W1 the products read their weights at {', '.join(rates)} GB/s (bf16, INT8, INT4), "
        f"and {', '.join(others)} of a step is not reading: the fewer the bytes, the more count attention, norms, what "
        "lies between two steps, and the two threads' meetings, five a layer and 150 a step. In W3 attention takes "
        f"{rows['attention']:.1f} of {rows['step']:.1f} ms (bf16): the keys and values of 32 requests lie in blocks of "
        "4 KiB, which come slower than a stream; norms and forming rows take "
        f"{rows['norm'] + rows['form']:.1f} ms. W2 lies between the two. A third to a half of the time of W2 and W3 is "
        "prefill, at the share of its roofline that W4 shows."
    )


def _prefill(name: str, row: dict[str, Any]) -> str:
    seconds = ", ".join(f"{int(length):,}: {s:.2f} s" for length, s in row["seconds"].items())
    over = ", ".join(f"{int(length):,}: {ratio:.2f}" for length, ratio in row["over_fit"].items())
    return (
        f"Time to the first token by prompt length, {name}: {seconds}; over a·n + b·n² fitted up to 4,096: {over}. "
        f"Attention at 4,096: {row['attention_gflop_s_at_4k']:,.0f} GFLOP/s, {row['attention_share_of_fp32']:.0%} of "
        f"the fp32 rate."
    )


def _phases(phases: dict[str, Any]) -> str:
    rows: list[list[object]] = []
    for mode, workloads in phases.items():
        for workload, kind in (("W1", "decode"), ("W3", "decode"), ("W4", "prefill")):
            found = workloads[workload][kind]
            name = f"{workload} {kind}, {MODE_NAMES[mode]}"
            rows.append([name, f"{found['step']:.2f}", *(f"{found[part]:.2f}" for part in PARTS)])
    return table(["step", "whole", *PARTS], rows)


def long_run(result: dict[str, Any]) -> list[str]:
    """Ten minutes of mixed load."""
    rows: list[list[object]] = [
        [number + 1, f"{minute['tokens_per_s']:,.0f}", minute["itl_p50_ms"], minute["anonymous_mib"]]
        for number, minute in enumerate(result["minutes"])
    ]
    return [
        "## Ten minutes of mixed load, 135M shape",
        "Sixteen requests at once with the lengths of Azure's conversation trace, a quarter as long, sampled: ITL "
        f"p50 {result['itl_p50_ms']} ms, p99 {result['itl_p99_ms']} ms, max {result['itl_max_ms']} ms. The last three "
        f"minutes went at {result['late_over_early_speed']:.2f} of the speed of the second to fourth; anonymous "
        f"memory, pages included, grew by {result['memory_growth_mib']} MiB after the third.",
        table(["minute", "tokens/s, prompts included", "ITL p50, ms", "anonymous memory, MiB"], rows),
    ]
