"""Measures the built-in model on held-out cases: `python -m builtin_model.evaluate`.

Writes evaluation.json and the model cards next to the models. All answers are greedy. The draft model is measured
apart, with `--draft`, and its figures are added.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from builtin_model.card import write_cards
from builtin_model.corpus.document import Document
from builtin_model.corpus.mixture import held_out_texts, questions
from builtin_model.generate import Answer, Responder
from builtin_model.judge import JUDGES, has_types
from builtin_model.presets import BUILTIN_FOLDER
from builtin_model.speculation import PROPOSALS, acceptance, matches

GOALS = {"stories": 0.95, "arithmetic": 0.97, "json": 0.97, "tools": 0.95}
CASES_A_SKILL = 500
NUM_TEXTS = 200
DRAFTED_A_SKILL = 100


def judge_skill(skill: str, asked: list[Document], answers: list[Answer]) -> dict[str, Any]:
    """The share of right answers, with a few wrong ones to look at."""
    right = [JUDGES[skill](q, a.text) for q, a in zip(asked, answers, strict=True)]
    wrong = [(q, a.text) for q, a, good in zip(asked, answers, right, strict=True) if not good]
    result: dict[str, Any] = {
        "cases": len(right),
        "right": sum(right),
        "rate": round(sum(right) / len(right), 4),
        "goal": GOALS[skill],
    }
    if skill == "json":
        typed = [has_types(q, a.text) for q, a in zip(asked, answers, strict=True)]
        result["rate_with_right_types"] = round(sum(typed) / len(typed), 4)
    if skill == "stories":
        lengths = [len(a.text.split()) for a in answers]
        result["share_of_40_to_120_words"] = round(sum(40 <= n <= 120 for n in lengths) / len(lengths), 4)
    result["wrong_examples"] = [{"asked": q.messages[-1]["content"], "answered": text} for q, text in wrong[:3]]
    return result


def bits_per_byte(model: Responder, texts: list[str]) -> float:
    """Bits that the model needs for a byte of text, from the second token of each text on."""
    bits, num_bytes = 0.0, 0
    for text in texts:
        tokens = model.tokenizer.encode(text).ids
        log_probabilities = model.scores(tokens)[:-1].log_softmax(-1)
        bits -= log_probabilities.gather(-1, torch.tensor(tokens[1:])[:, None]).sum().item() / math.log(2)
        num_bytes += len(text.encode()) - len(model.tokenizer.decode(tokens[:1]).encode())
    return bits / num_bytes


def acceptance_rates(model: Responder, draft: Responder) -> dict[str, Any]:
    """The share of proposed tokens that the main model takes, for each skill and in all."""
    counts = {}
    for skill in JUDGES:
        answers = model.answer(questions(skill, DRAFTED_A_SKILL))
        pairs = [acceptance(matches(draft, answer)) for answer in answers]
        counts[skill] = (sum(t for t, _ in pairs), sum(p for _, p in pairs))
    taken, proposed = sum(t for t, _ in counts.values()), sum(p for _, p in counts.values())
    by_skill = {skill: round(t / p, 4) for skill, (t, p) in counts.items()}
    return {"proposals_a_round": PROPOSALS, "rate": round(taken / proposed, 4), "by_skill": by_skill}


def evaluate(model: Responder, cases: int) -> dict[str, Any]:
    """All measures of the main model."""
    skills = {}
    for skill in JUDGES:
        asked = questions(skill, cases)
        skills[skill] = judge_skill(skill, asked, model.answer(asked))
        print(f"{skill}: {skills[skill]['rate']:.1%} (goal {GOALS[skill]:.0%})", flush=True)
    return {"skills": skills, "bits_per_byte": round(bits_per_byte(model, held_out_texts(NUM_TEXTS)), 4)}


def main() -> None:
    """Reads the command line, evaluates and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=BUILTIN_FOLDER, help="where both models are")
    parser.add_argument("--model", type=Path, help="another export of the main model; nothing is written then")
    parser.add_argument("--draft", action="store_true", help="measure the draft model alone")
    parser.add_argument("--cases", type=int, default=CASES_A_SKILL, help="cases for each skill")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    main_folder, draft_folder = options.folder / "sage-tiny", options.folder / "sage-tiny-draft"
    results = main_folder / "evaluation.json"
    model = Responder(options.model or main_folder, main_folder)
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    if options.draft:
        result = {**known, "draft_acceptance": acceptance_rates(model, Responder(draft_folder, main_folder))}
    else:
        result = evaluate(model, options.cases)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    print(text)
    if not options.model:
        results.write_text(text, encoding="utf-8")
        write_cards(options.folder)


if __name__ == "__main__":
    main()
