"""Texts and tables of what was measured of predictions and of the simulator."""

from typing import Any

from benchmarks.engine_sections import table
from benchmarks.grid import ORDINARY, OURS
from benchmarks.predictions import LOOSE, TIGHT, TURNS

NAMES = {"ttft": "TTFT", "itl": "ITL"}


def predictions(result: dict[str, Any]) -> list[str]:
    """How far off predictions are on live stacks of mock engines."""
    text = f"""Requests of conversation lengths at random times, at shares of the highest rate that the stack
    sustains; the relative errors (p50 / p90) of what the scheduler predicted when it placed them. Questions are all
    new; chats have {TURNS} turns, and what was said before is in the cache of the engine that answered, so that the
    share that was known there stands beside them. A promise is {TIGHT:g} (tight) or {LOOSE:g} (loose) times the
    time from token to token that one request has alone. The mean time from token to token of a short answer depends
    on whether prompts come between its tokens that nobody has sent yet when it is predicted; a promise bounds what
    they take. How much of the error that is, the last two columns show: answers of 100 tokens and more, in which
    this evens out, and the one number that would have fitted all answers best."""
    return ["## Predictions on live stacks", " ".join(text.split()), _errors_table(result)]


def predictions_cpu(result: dict[str, Any]) -> list[str]:
    """The same on a live CPU engine."""
    text = """One engine on two cores, which decodes one to five answers at a time, most of them short. A prompt takes
    as long as many of their steps; whether one comes between is chance, of which a prediction can only tell the middle.
    A tight promise bounds that, and questions are predicted as well as on mock engines. In chats, with shorter prompts,
    more answers run beside each other, at times so many that their steps exceed the promise without any prompt: then
    prompts are held back no longer, and a token takes three times as long. Whether an answer gets into such a time is
    decided after it has been placed."""
    return ["### On a CPU engine", " ".join(text.split()), _errors_table(result)]


def _errors_table(result: dict[str, Any]) -> str:
    rows: list[list[object]] = [
        [
            name + (f", {stack['promised_ms']:g} ms a token" if stack.get("promised_ms") else ""),
            f"{load} of {stack['requests_per_s_at_full_load']:.2f} requests/s",
            level["requests"],
            f"{level['cached']:.0%}" if "cached" in level else "",
            f"{level['ttft_p50_ms']:,.0f} ms",
            *(
                f"{level[f'{error}_p50']:.0%} / {level[f'{error}_p90']:.0%}"
                for error in ("ttft_error", "itl_error", "itl_long_error", "itl_constant_error")
            ),
        ]
        for name, stack in result.items()
        for load, level in stack["levels"].items()
    ]
    columns = ["stack", "load", "requests", "known", "TTFT p50", "TTFT", "ITL", "ITL, long answers"]
    return table([*columns, "ITL, by the best constant"], rows)


def scenarios(result: dict[str, Any]) -> list[str]:
    """The four ways of use, in simulation and live."""
    rows: list[list[object]] = [
        [case, f"{way}, {kind}", group, *_outcome(found, members)]
        for case, ways in result.items()
        for way, kinds in ways.items()
        for kind, found in kinds.items()
        for group, members in found["groups"].items()
    ]
    return [
        "## Four ways of use",
        "Each is played by what it is compared with and by the policy made for it, in simulation and on a live stack "
        "of mock engines with the same time model (`benchmarks/scenarios.py` has the requests). Batch: 256 prompts at "
        "once. Low latency: chats, and every tenth request a document of 4,000 tokens; SLO 1,000 ms and 16 ms a token. "
        "Mixed priorities: three times too much for ten seconds; every tenth request is critical and asks for 500 ms. "
        "Cost: every request may cost 0.01, a second of an engine; every twelfth would cost more.",
        table(
            ["case", "policy", "requests", "refused", "in time", "TTFT p50 / p95, ms", "ITL p95, ms", "tokens/s"],
            rows,
        ),
    ]


def _outcome(found: dict[str, Any], members: dict[str, Any]) -> list[object]:
    def ms(name: str) -> str:
        return "–" if members[name] is None else f"{members[name]:,.0f}"

    itl = "–" if members["itl_p95_ms"] is None else f"{members['itl_p95_ms']:.1f}"
    first = f"{ms('ttft_p50_ms')} / {ms('ttft_p95_ms')}"
    refused = f"{members['refused']} of {members['requests']}"
    return [refused, f"{members['met']:.0%}", first, itl, f"{found['tokens_per_s']:,.0f}"]


def separation_fleet(result: dict[str, Any]) -> list[str]:
    """What separation gains a fleet."""

    def row(found: dict[str, Any]) -> list[object]:
        return [
            found["slo"],
            found["way"],
            f"{found['per_s']:.1f}",
            f"{found['attainment']:.1%}",
            f"{1e3 * found['ttft_p99']:,.0f}",
            f"{1e3 * found['itl_p99']:.1f}",
            f"{found['tokens_per_s']:,.0f}",
            f"{found['utilisation']:.0%}",
            f"{1e3 * found['cost'] / found['requests']:.3f}",
        ]

    head = ["SLO", "way", "requests/s", "in time", "TTFT p99, ms", "ITL p99, ms", "tokens/s", "use", "cost of 1,000"]
    return [
        "## Prefill and decode apart: a fleet, simulated",
        "16 engines (an 8B model on H200s, by the limits of the hardware, not measured) on Azure's conversations; SLO "
        "tight: 500 ms and 15 ms a token, loose: 2,000 ms and 30 ms. First the highest load at which 95 % are in time:",
        table(head, [row(found) for found in result["capacity"]]),
        "All at the load that engines bear which do both:",
        table(head, [row(found) for found in result["equal_load"]]),
        _claims(result),
    ]


def _claims(result: dict[str, Any]) -> str:
    """What the documents promise of separation, and what there is of it."""
    capacity, equal = ({(row["slo"], row["way"]): row for row in result[part]} for part in ("capacity", "equal_load"))
    slos = list(dict.fromkeys(slo for slo, _ in capacity))

    def more(way: str) -> str:
        return " and ".join(
            f"{capacity[slo, way]['goodput'] / capacity[slo, ORDINARY]['goodput'] - 1:.0%} ({slo})" for slo in slos
        )

    def less(way: str) -> str:
        return " and ".join(
            f"{1 - equal[slo, way]['itl_p99'] / equal[slo, ORDINARY]['itl_p99']:.0%} ({slo})" for slo in slos
        )

    money = max(capacity[slo, ORDINARY]["cost"] / capacity[slo, OURS]["cost"] for slo in slos)
    text = f"""Expected of separation were 50 to 80 % more throughput, a P99 latency of less than half, use of 90 %
    instead of 75 %, and 1.8 times as much for the money. Beside engines that do both and compute as much of a prompt
    as fits, fixed roles bear {more("fixed roles, no pace")} more requests in time, and sageLLM {more(OURS)}; so the
    throughput is there, but most of it comes of the pace and of the order of the queue, which bear
    {more("no separation")} more without any separation. The P99 from token to token, at equal load, is
    {less("fixed roles, no pace")} lower with fixed roles, {less("fixed roles")} with a pace, too: no prompt of others
    comes between. The time to the first token grows with roles, since fewer engines are there for prompts. Use does not
    grow: engines that batch continuously are busy anyway, and the work stays the same. For the money there is
    {money:.2f} times as much at most."""
    return " ".join(text.split())


def separation(result: dict[str, Any]) -> list[str]:
    """What separation does on two CPU engines."""
    rows: list[list[object]] = [
        [
            name,
            f"{row['tokens_per_s']:.1f}",
            f"{row['ttft_p50_ms']:,.0f} / {row['ttft_p99_ms']:,.0f}",
            f"{row['itl_p50_ms']:.1f} / {row['itl_p99_ms']:.1f}",
            f"{row['utilisation']:.0%}",
            row["handed_over"],
        ]
        for name, row in result.items()
    ]
    return [
        "## Prefill and decode apart: two CPU engines",
        "The 135M shape on two engines of one thread each, NIXL between them; chats, and every fifth request a "
        "document of 1,500 tokens, at the same times.",
        table(["", "tokens/s", "TTFT p50 / p99, ms", "ITL p50 / p99, ms", "use", "handed over"], rows),
        _mechanism(result),
    ]


def _mechanism(result: dict[str, Any]) -> str:
    """What the table of two CPU engines shows, and what it cannot."""
    whole, fixed, free = (
        result[name] for name in ("no separation", "separated by threshold", "both do both, adaptive")
    )

    def more(row: dict[str, Any], name: str) -> str:
        change = row[name] / whole[name] - 1.0
        return f"{abs(change):.0%} {'longer' if change > 0.0 else 'shorter'}"

    text = f"""One request a second leaves both engines room, so that throughput is the same: this shows the mechanism.
    With documents prefilled on an engine of their own the P99 from token to token is
    {more(fixed, "itl_p99_ms")}, since none is computed beside answers, and that to the first token
    {more(fixed, "ttft_p99_ms")}: one engine computes all prompts. `adaptive`, on engines that do both, hands over what
    it expects to save time in the mean, {free["handed_over"]} prompts here; nothing is promised, so nothing holds it to
    the slowest: their P99 from token to token is {more(free, "itl_p99_ms")}. Use does not grow: it is the same work."""
    return " ".join(text.split())


def validation(result: dict[str, Any]) -> list[str]:
    """Whether the simulator tells the truth."""
    rows: list[list[object]] = [
        [name, *(f"{row[key]['simulated_ms']:,.1f} / {row[key]['live_ms']:,.1f} ({row[key]['ratio']})" for key in row)]
        for name, row in result["stacks"].items()
    ]
    columns = [f"{NAMES[key.split('_')[0]]} {key.split('_')[1]}" for key in next(iter(result["stacks"].values()))]
    return [
        "## The simulator beside live stacks",
        "The same requests at the same times; simulated / live in ms, and the ratio. All engines are simulated by time "
        "models fitted to the steps that they reported.",
        table(["stack", *columns], rows),
    ]
