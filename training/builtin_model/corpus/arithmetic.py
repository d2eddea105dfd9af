"""Sums and differences of numbers below one hundred, worked out digit by digit as on paper.

Each step needs only a small table and the digits that stand before, which a small model learns from few examples.
"""

from random import Random

from builtin_model.corpus.document import Document, Message, assistant, user
from builtin_model.corpus.split import Split

PLUS = (
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "{a}+{b}=",
    "{a} + {b}",
    "{a} + {b} = ?",
    "{a} + {b} =",
    "{a}+{b}",
    "{a}+{b}?",
    "Add {a} and {b}.",
    "How much is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Calculate {a} + {b}.",
    "Compute {a} + {b}",
    "What is the sum of {a} and {b}?",
    "Can you add {a} and {b}?",
    "Please work out {a} + {b}.",
    "Tell me {a} + {b}.",
    "what's {a}+{b}?",
    "What's {a} plus {b}?",
    "I have {a} apples and get {b} more. How many do I have?",
)
MINUS = (
    "What is {a} - {b}?",
    "What is {a} minus {b}?",
    "{a}-{b}=",
    "{a} - {b}",
    "{a} - {b} = ?",
    "{a} - {b} =",
    "{a}-{b}",
    "{a}-{b}?",
    "Subtract {b} from {a}.",
    "How much is {a} minus {b}?",
    "How much is {a} - {b}?",
    "Calculate {a} - {b}.",
    "Compute {a} - {b}",
    "Take {b} away from {a}.",
    "Can you subtract {b} from {a}?",
    "Please work out {a} - {b}.",
    "Tell me {a} - {b}.",
    "what's {a}-{b}?",
    "What's {a} minus {b}?",
    "What do I get when I take {b} away from {a}?",
)
PAIRS = (
    "What are {0} and {1}?",
    "Calculate {0} and {1}.",
    "What is {0}, and what is {1}?",
    "{0}, {1}",
    "Work out both: {0}; {1}",
)


def draw(rng: Random, split: Split, smallest: int = 0) -> tuple[int, str, int]:
    """A problem of the split; a + b and b + a, like a - b and b - a, are always on the same side."""
    while True:
        a, b, sign = rng.randint(smallest, 99), rng.randint(smallest, 99), rng.choice("+-")
        if split.admits("sum", sign, min(a, b), max(a, b)):
            return a, sign, b


def equation(a: int, sign: str, b: int) -> str:
    """The problem with its answer."""
    return f"{a} {sign} {b} = {a + b if sign == '+' else a - b}"


def added(a: int, b: int) -> str:
    """The columns of a sum from the right, the carry last: 7 + 5 = 12, 1 + 2 + 1 = 4."""
    units, tens = a % 10 + b % 10, a // 10 + b // 10
    carried = f" + 1 = {tens + 1}" if units > 9 else f" = {tens}"
    return f"{a % 10} + {b % 10} = {units}, {a // 10} + {b // 10}{carried}"


def subtracted(a: int, b: int) -> str:
    """The columns of a difference, the larger number first: 42 > 17, 12 - 7 = 5, 4 - 1 - 1 = 2."""
    if a == b:
        return f"{a} = {b}"
    large, small = max(a, b), min(a, b)
    borrow = large % 10 < small % 10
    units, tens = large % 10 + 10 * borrow, large // 10 - small // 10
    columns = f"{units} - {small % 10} = {units - small % 10}, {large // 10} - {small // 10}"
    return f"{large} > {small}, {columns}" + (f" - 1 = {tens - 1}" if borrow else f" = {tens}")


def solution(a: int, sign: str, b: int) -> str:
    """The way to the answer, and the equation at its end."""
    return f"{added(a, b) if sign == '+' else subtracted(a, b)}, so {equation(a, sign, b)}"


def exchange(rng: Random, split: Split, smallest: int = 0) -> tuple[Message, Message]:
    """One question with its answer."""
    a, sign, b = draw(rng, split, smallest)
    form = rng.choice(PLUS if sign == "+" else MINUS)
    return user(form.format(a=a, b=b)), assistant(solution(a, sign, b))


def pair(rng: Random, split: Split) -> tuple[Message, Message]:
    """Two problems in one question."""
    problems = [draw(rng, split) for _ in range(2)]
    asked = [f"{a} {sign} {b}" for a, sign, b in problems]
    return user(rng.choice(PAIRS).format(*asked)), assistant("\n".join(solution(*p) for p in problems))


def chat(rng: Random, split: Split) -> Document:
    """A conversation of a few problems."""
    messages: list[Message] = []
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        messages.extend(pair(rng, split) if rng.random() < 0.1 else exchange(rng, split))
    return Document(skill="arithmetic", messages=tuple(messages))


def table(rng: Random, split: Split) -> Document:
    """A plain page of solved problems."""
    problems = [draw(rng, split) for _ in range(rng.randint(3, 12))]
    lines = [f"{a} {sign} {b}: {solution(a, sign, b)}" for a, sign, b in problems]
    return Document(skill="arithmetic", text="\n".join(lines) + "\n")


def write(rng: Random, split: Split) -> Document:
    """A training document."""
    return table(rng, split) if rng.random() < 0.3 else chat(rng, split)


def question(rng: Random, split: Split) -> Document:
    """An evaluation case with two-digit numbers; the fact is the right equation."""
    asked, answered = exchange(rng, split, smallest=10)
    right = str(answered["content"]).rpartition("so ")[2]
    return Document(skill="arithmetic", messages=(asked,), facts={"equation": right})
