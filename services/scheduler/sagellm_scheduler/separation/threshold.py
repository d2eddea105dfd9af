"""Long prompts are prefilled elsewhere: a static rule, by no measure of load."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.separation.policy import Alternatives, Verdict

PROMPT_TOKENS = 800
RATIO = 4.0


class Threshold:
    """Prompts of `prompt_tokens` and more, and those `ratio` times as long as their answer."""

    name = "threshold"
    predicts = False

    def __init__(self, prompt_tokens: int = PROMPT_TOKENS, ratio: float = RATIO) -> None:
        self.prompt_tokens, self.ratio = prompt_tokens, ratio

    def separate(self, submit: Submit, alternatives: Alternatives) -> Verdict:
        tokens, answer = submit.prompt_tokens, alternatives.answer
        if tokens >= self.prompt_tokens:
            return Verdict(True, f"{tokens} prompt tokens, {self.prompt_tokens} or more")
        if tokens >= self.ratio * answer:
            return Verdict(True, f"{tokens} prompt tokens for an answer of about {answer:.0f}")
        return Verdict(False, f"{tokens} prompt tokens, under {self.prompt_tokens}")
