"""How many of a draft model's proposals the main model takes, without running speculation."""

from builtin_model.generate import Answer, Responder

PROPOSALS = 4


def matches(draft: Responder, answer: Answer) -> list[bool]:
    """For each token of a greedy answer, whether the draft would have proposed it.

    A proposal counts only while all before it were taken, so the draft always continues the answer itself and one
    forward pass over the answer tells everything.
    """
    tokens = answer.prompt + answer.tokens
    proposed = draft.scores(tokens)[len(answer.prompt) - 1 : -1].argmax(-1).tolist()
    return [p == t for p, t in zip(proposed, answer.tokens, strict=True)]


def acceptance(matched: list[bool]) -> tuple[int, int]:
    """Numbers of taken and of proposed tokens when an answer is decoded greedily with four proposals a round."""
    taken = proposed = at = 0
    while at < len(matched):
        window = matched[at : at + PROPOSALS]
        length = window.index(False) if False in window else len(window)
        taken, proposed = taken + length, proposed + len(window)
        at += length + 1
    return taken, proposed
