"""Writes the model cards from the measured figures."""

import json
from pathlib import Path
from typing import Any

DATE = "2026-11-21"
SKILLS = {
    "stories": "stories that name every requested thing",
    "arithmetic": "sums and differences of two-digit numbers, right",
    "json": "JSON that parses and has exactly the asked keys",
    "tools": "the right tool with exactly the right arguments",
}
FRONT = "---\nlicense: apache-2.0\nlanguage: en\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"


def write_cards(folder: Path) -> None:
    """Writes README.md next to each model that is in the folder."""
    evaluation = json.loads((folder / "sage-tiny" / "evaluation.json").read_text(encoding="utf-8"))
    for name, writer in (("sage-tiny", main_card), ("sage-tiny-draft", draft_card)):
        if (folder / name / "model.safetensors").exists():
            (folder / name / "README.md").write_text(writer(folder / name, evaluation), encoding="utf-8")


def size_of(path: Path) -> str:
    """A file's size in megabytes, as people read it."""
    return f"{path.stat().st_size / 1e6:.2f} MB"


def training_lines(folder: Path) -> str:
    """What training.json says, as a list."""
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return (
        f"- Parameters: {training['parameters']:,} ({shape['num_hidden_layers']} layers of {shape['hidden_size']}, "
        f"{shape['num_attention_heads']} heads, {shape['num_key_value_heads']} key/value heads, "
        f"vocabulary {shape['vocab_size']}, tied embeddings)\n"
        f"- Weights: bfloat16 safetensors, {size_of(folder / 'model.safetensors')}\n"
        f"- Trained on {training['tokens'] / 1e6:.1f} million tokens in {training['steps']:,} steps, "
        f"{training['minutes']:.0f} minutes on {training['threads']} CPU threads\n"
        f"- Date: {DATE}\n"
    )


def main_card(folder: Path, evaluation: dict[str, Any]) -> str:
    """The card of the model that answers."""
    rows = "".join(
        f"| {text} | {evaluation['skills'][skill]['rate']:.1%} | {evaluation['skills'][skill]['goal']:.0%} "
        f"| {evaluation['skills'][skill]['cases']} |\n"
        for skill, text in SKILLS.items()
    )
    skills = evaluation["skills"]
    drafted = evaluation.get("draft_acceptance")
    draft = f"- Proposals of `sage-tiny-draft` that it takes: {drafted['rate']:.1%}\n" if drafted else ""
    return (
        FRONT + "# sage-tiny\n\n"
        "The small chat model that ships with sageLLM, trained from scratch on sentences of our own. It tells short "
        "stories, adds and subtracts two-digit numbers digit by digit, answers with JSON in the shape asked for and "
        "calls tools. It knows nothing about the world; it is there so that everything runs and can be tested "
        "anywhere.\n\n"
        "## The model\n\n"
        + training_lines(folder)
        + f"- Tokenizer: byte-level BPE, one token for each digit, ChatML, {size_of(folder / 'tokenizer.json')}\n"
        "- Context: 2,048 positions, as many as the longest training documents have\n"
        "- Tools: the format of the Qwen2.5 and Hermes templates\n\n"
        "## Evaluation\n\n"
        "Greedy answers to held-out cases: word sets, sums, key sets and calls that training never saw.\n\n"
        "| measure | result | goal | cases |\n|---|---|---|---|\n" + rows + "\n"
        f"- Bits per byte on held-out stories: {evaluation['bits_per_byte']:.3f}\n"
        f"- JSON with the right types as well: {skills['json']['rate_with_right_types']:.1%}\n"
        f"- Stories of 40 to 120 words: {skills['stories']['share_of_40_to_120_words']:.1%}\n" + draft + "\n"
        "## How it was made\n\n"
        "```\n"
        "cd training\n"
        "python -m builtin_model.train sage-tiny --minutes 93\n"
        "python -m builtin_model.train sage-tiny-draft --minutes 5\n"
        "python -m builtin_model.evaluate\n"
        "python -m builtin_model.evaluate --draft\n"
        "```\n\n"
        "A run that is started again with the same `--work` folder goes on from its checkpoint. The model starts "
        "with planted heads that repeat what stood before (`planting.py`), so that copying need not be discovered. "
        "This version was trained in two such runs, to 75 and to 93 minutes; the first of them still wrote lists in "
        "texts to be turned into JSON with commas, which nobody can tell from those between the fields.\n"
    )


def draft_card(folder: Path, evaluation: dict[str, Any]) -> str:
    """The card of the model that drafts."""
    drafted = evaluation.get("draft_acceptance")
    rates = ""
    if drafted:
        by_skill = ", ".join(f"{skill} {rate:.1%}" for skill, rate in drafted["by_skill"].items())
        rates = (
            f"- Proposals that `sage-tiny` takes, greedy, {drafted['proposals_a_round']} a round: "
            f"{drafted['rate']:.1%} ({by_skill})\n"
        )
    return (
        FRONT + "# sage-tiny-draft\n\n"
        "The draft model of `sage-tiny` for speculative decoding, distilled from it. It has the same "
        "tokenizer; its files are here too, so that the folder loads alone.\n\n" + training_lines(folder) + rates
    )
