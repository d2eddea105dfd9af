"""What both generation APIs accept: OpenAI's names, and our additions."""

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.sampling import MAX_STOP_STRINGS, SamplingOptions
from sagellm_common.contracts.slo import Priority, Slo


def expected(sentence: str) -> WrapValidator:
    """Replace what a union finds wrong, one finding per member, by one sentence."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("unexpected", "{sentence}", {"sentence": sentence}) from error

    return WrapValidator(validate)


Text = Annotated[str, Strict()]
Stop = Annotated[
    Text | Annotated[list[Text], Field(max_length=MAX_STOP_STRINGS)],
    expected(f"a text or a list of at most {MAX_STOP_STRINGS} texts is expected"),
]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]


class StreamOptions(Message):
    """Options of a streamed answer."""

    include_usage: bool = Field(default=False, description="end with a chunk that has no choices and the usage")


class ResponseFormat(Message):
    """The form that an answer is held to; this server offers `text`."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class GenerationFields(SamplingOptions):
    """Fields that chats and completions share. A field that is null counts as left out; unknown fields are ignored."""

    model: str | None = Field(default=None, max_length=512, description="left out: the deployment's default model")
    stop: Stop = Field(default=[], description="texts that end the answer; the answer ends before them")
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    logit_bias: dict[int, Bias] = Field(default_factory=dict, max_length=1024, description="token id to bias")
    response_format: ResponseFormat = ResponseFormat()
    user: str | None = Field(default=None, max_length=256)
    include_stop: bool = Field(default=False, description="show the stop string that ended the answer")
    return_token_ids: bool = Field(default=False, description="add `token_ids` to each choice")
    slo: Slo = Field(default=Slo(), description="also as headers: x-slo-ttft-ms, x-slo-itl-ms, x-slo-deadline-ms")
    priority: Priority = Field(default=Priority.NORMAL, description="0 critical, 1 high, 2 normal, 3 low")
    cost_budget: float | None = Field(
        default=None,
        gt=0,
        description="most that it may cost, in the currency of the engines' prices; refused if it would be more",
    )
    session: str | None = Field(default=None, max_length=256, description="requests of a session go to one engine")
    client_request_id: str | None = Field(default=None, max_length=256, description="also as x-client-request-id")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop
