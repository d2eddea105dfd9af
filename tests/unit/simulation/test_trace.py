"""Trace files: Azure's, BurstGPT's and Mooncake's formats, and what is wrong with others."""

from pathlib import Path

import pytest

from sagellm_common.errors import InvalidArgument
from sagellm_simulation.trace import load

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1087,230,1317,API log\n46,ChatGPT,100,0,100,API log\n"
)
MOONCAKE = (
    '{"timestamp": 500, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}\n'
    '{"timestamp": 0, "input_length": 7319, "output_length": 490, "hash_ids": [0, 14]}\n'
)


def test_azure(tmp_path: Path) -> None:
    """Times with seven digits behind the second count from the first request."""
    (tmp_path / "azure.csv").write_text(AZURE)
    first, second = load(tmp_path / "azure.csv").requests
    assert (first.at, first.prompt_tokens, first.output_tokens) == (0.0, 374, 44)
    assert second.at == pytest.approx(4.314579, abs=1e-6)


def test_burstgpt(tmp_path: Path) -> None:
    """Columns are found by name; requests that failed (no response) are left out."""
    (tmp_path / "burst.csv").write_text(BURSTGPT)
    requests = load(tmp_path / "burst.csv").requests
    assert [(r.at, r.prompt_tokens, r.output_tokens) for r in requests] == [(0.0, 472, 18), (40.5, 1087, 230)]


def test_mooncake(tmp_path: Path) -> None:
    """Requests are put in the order of their times, with the ids of their blocks."""
    (tmp_path / "mooncake.jsonl").write_text(MOONCAKE)
    trace = load(tmp_path / "mooncake.jsonl")
    assert [(r.at, r.prompt_tokens, r.blocks) for r in trace.requests] == [(0.0, 7319, (0, 14)), (0.5, 6758, (0, 1, 2))]
    assert trace.at_rate(20.0).seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "one,two\n1,2\n", "of no known trace"),
        ("a.csv", AZURE + "2023-11-16 18:16:00,many,3\n", "line 4"),
        ("a.jsonl", MOONCAKE + '{"timestamp": 3}\n', "line 3"),
        ("a.jsonl", "", "no requests"),
    ],
)
def test_a_file_that_is_no_trace_is_an_error_that_names_the_place(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    """Nothing is guessed."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidArgument, match=message):
        load(tmp_path / name)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(InvalidArgument, match=r"nowhere\.csv"):
        load(tmp_path / "nowhere.csv")
