"""A decision record, for people."""

from rich.table import Table

from sagellm.cli.console import out
from sagellm_common.contracts.decisions import Decision, DecisionRecord
from sagellm_common.contracts.slo import Priority

COLUMNS = "", "engine", "first token", "per token", "delays others", "SLOs missed", "load", "requests", "cached", "note"
LEGEND = (
    "delays others: those that run or wait there, together; SLOs missed: its own and theirs, expected;\n"
    "requests: running + waiting + on their way, as the scheduler knew; cached: tokens of the prompt"
)


def print_record(record: DecisionRecord) -> None:
    """Print what was asked, every placement with its candidates, and the outcome."""
    priority = Priority(record.priority).name.lower() if record.priority in set(Priority) else str(record.priority)
    out().print(f"Request {record.request_id}", style="bold", markup=False)
    out().print(
        f"{record.model}: {record.prompt_tokens} prompt tokens, at most {record.max_tokens} to generate, "
        f"priority {priority}.",
        markup=False,
    )
    for decision in record.decisions:
        out().print(f"\n{decision_sentence(decision)}", markup=False)
        out().print(_table(decision))
        out().print(LEGEND, style="dim")
    if not record.decisions:
        out().print("No engine has been chosen for it yet.")
    out().print(f"\n{outcome_sentence(record)}", style="red" if record.error else "green", markup=False)


def decision_sentence(decision: Decision) -> str:
    """Say in one sentence what was decided and why."""
    again = f"Attempt {decision.epoch + 1}: " if decision.epoch else ""
    engines = decision.chosen
    if decision.prefill is not None:
        engines = f"{decision.prefill} to prefill and {decision.chosen} to decode"
    way = ", where it let others go first so that most were in time" if decision.gave_way else ""
    pace = f" A token every {_ms(decision.promised_itl_ms)} is promised." if decision.promised_itl_ms else ""
    return (
        f"{again}{decision.scheduler_id} chose {engines} after {decision.queued_ms:.1f} ms in the queue "
        f"({decision.queue_policy}, position {decision.queue_position}){way}: "
        f"{decision.reason} ({decision.router}).{pace}"
    )


def _table(decision: Decision) -> Table:
    table = Table(*COLUMNS, box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.columns[COLUMNS.index("engine")].no_wrap = True
    for candidate in decision.candidates:
        is_chosen = candidate.engine_id == decision.chosen
        predicted = (_ms(candidate.predicted_ttft_ms), _ms(candidate.predicted_itl_ms))
        harm = (_ms(candidate.predicted_delay_ms), _count(candidate.predicted_misses))
        there = f"{candidate.running}+{candidate.waiting}+{candidate.reserved}"
        figures = (f"{candidate.load:.1f}", there, str(candidate.cached_tokens))
        note = "chosen" if is_chosen else candidate.excluded or ""
        style = "green" if is_chosen else "dim" if candidate.excluded else ""
        table.add_row("→" if is_chosen else "", candidate.engine_id, *predicted, *harm, *figures, note, style=style)
    return table


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 10_000:
        return f"{value / 1e3:,.0f} s"
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def outcome_sentence(record: DecisionRecord) -> str:
    """Say in one sentence what came of it."""
    if record.outcome is None:
        return "It is still running."
    parts = [f"Outcome: {record.outcome}"]
    if record.completion_tokens is not None:
        parts.append(f"{record.completion_tokens} tokens")
    if record.ttft_ms is not None:
        parts.append(f"the first after {record.ttft_ms:.0f} ms{_promised(record)}")
    if record.transfer_ms is not None:
        parts.append(f"{_ms(record.transfer_ms)} of it for the hand-over")
    if record.itl_ms is not None:
        parts.append(f"then one every {_ms(record.itl_ms)}")
    if record.e2e_ms is not None:
        parts.append(f"all after {record.e2e_ms:.0f} ms")
    if record.missed is not None:
        parts.append(
            f"missed its {record.missed.upper() if record.missed != 'deadline' else 'deadline'} ({record.cause})"
        )
    if record.error:
        parts.append(str(record.error.get("message", record.error)))
    return ", ".join(parts) + "."


def _promised(record: DecisionRecord) -> str:
    predicted = record.decisions[-1].predicted_ttft_ms if record.decisions else None
    return "" if predicted is None else f" ({predicted:.0f} predicted)"
