"""Engines that could be had, from a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from sagellm_common.errors import InvalidArgument
from sagellm_scheduler.planner.offers import read_offers

ROW: dict[str, Any] = {"kind": "h200-8b", "base": 4e-3, "prefill": 2e-5, "decode": 5e-5, "max_tokens": 800_000}


def written(folder: Path, content: object) -> Path:
    path = folder / "offers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_offer_says_what_it_costs_and_how_fast_it_is(tmp_path: Path) -> None:
    """What is given is taken, in the order of the features of a step; the rest has defaults."""
    row = {**ROW, "layout": "TP2", "price_per_hour": 8.0, "can_hand_over": True, "over_knee": 1e-5, "knee": 64}
    plain, full = read_offers(written(tmp_path, [ROW, row]))
    assert (plain.kind, plain.layout, plain.price_per_hour, plain.can_hand_over) == ("h200-8b", "", 1.0, False)
    assert (full.layout, full.price_per_hour, full.can_hand_over, full.limits.knee) == ("TP2", 8.0, True, 64)
    assert full.limits.coefficients.tolist() == [4e-3, 2e-5, 5e-5, 0.0, 0.0, 1e-5]
    assert (full.limits.max_tokens, full.limits.max_num_seqs) == (800_000, 256)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "the file: Invalid JSON"),
        ({}, "the file: Input should be a valid array"),
        ([{key: ROW[key] for key in ROW if key != "base"}], r"0\.base: Field required"),
        ([ROW, {**ROW, "decode": 0}], r"1\.decode: Input should be greater than 0"),
        ([{**ROW, "prefil": 1.0}], r"0\.prefil: Extra inputs are not permitted"),
        ([{**ROW, "max_tokens": "many"}], r"0\.max_tokens: Input should be a valid number"),
    ],
)
def test_what_is_at_fault_is_named(tmp_path: Path, content: object, words: str) -> None:
    """A wrong file is refused with setting, file, row and field."""
    with pytest.raises(InvalidArgument, match=rf"SAGELLM_PLAN_OFFERS: .*offers\.json: {words}"):
        read_offers(written(tmp_path, content))


def test_an_absent_file_is_said(tmp_path: Path) -> None:
    """A path that leads nowhere is an error that names it."""
    with pytest.raises(InvalidArgument, match=r"nowhere\.json cannot be read"):
        read_offers(tmp_path / "nowhere.json")
