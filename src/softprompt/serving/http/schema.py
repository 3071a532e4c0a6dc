"""The bodies of requests and responses. Names and shapes are those of OpenAI's API where it has them."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from softprompt.errors import BadInput

Text = Annotated[str, StringConstraints(max_length=10_000_000)]
Columns = dict[str, str | int | float | bool]
ModelName = Annotated[str, Field(min_length=1, max_length=120, description="A prompt's name, or base for none.")]
WIDEST = 2**63


class Body(BaseModel):
    """Base of request bodies: unknown fields and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | dict) else value


Inputs = Annotated[
    list[Text | Columns],
    BeforeValidator(_as_list, json_schema_input_type=Text | Columns | list[Text | Columns]),
    Field(min_length=1),
]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]


class StreamOptions(Body):
    include_usage: bool = False


class CompletionBody(Body):
    """OpenAI's parameters of completions. Temperature is 0 unless given: the answer that `softprompt predict` gives."""

    model: ModelName
    prompt: Inputs = Field(description="A text or several; an object where the template has several columns.")
    raw: bool = Field(False, description="Take the prompt as it is: no template is filled, no blanks are stripped.")
    max_tokens: int | None = Field(None, ge=1, le=10_000_000, description="20 when not given, as predict's.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-WIDEST, lt=WIDEST)
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    user: str | None = Field(None, description="Ignored.")
    # OpenAI's parameters that this server does not have: refused unless they change nothing.
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    def refuse_unsupported_fields(self) -> None:
        """Raise Unsupported for a field that would change the answer and cannot be served."""
        harmless: dict[str, tuple[object, ...]] = {
            "n": (None, 1), "best_of": (None, 1), "echo": (None, False), "suffix": (None, ""),
            "presence_penalty": (None, 0), "frequency_penalty": (None, 0), "logit_bias": (None, {}),
        }  # fmt: skip
        for name, values in harmless.items():
            if (given := getattr(self, name)) not in values:
                raise Unsupported(f"{name}={given!r} is not supported by this server; leave it out.", name)
        if self.stream_options is not None and not self.stream:
            raise Unsupported("stream_options is only for stream=true.", "stream_options")


class Unsupported(BadInput):
    """A known parameter with a value that cannot be served."""

    def __init__(self, message: str, param: str) -> None:
        self.param = param
        super().__init__(message)


class ClassifyBody(Body):
    model: ModelName
    input: Inputs = Field(description="A text or several; an object where the template has several columns.")
    choices: Annotated[list[Annotated[str, Field(min_length=1, max_length=2000)]], Field(min_length=1)] | None = Field(
        None, description="What to choose from; the prompt's own choices when not given."
    )
    raw: bool = Field(False, description="Take the input as it is: no template is filled.")


class Usage(BaseModel):
    prompt_tokens: int
    """Source tokens; a prompt's own rows are not counted."""
    completion_tokens: int = 0
    total_tokens: int


def count_usage(prompt: int, completion: int = 0) -> Usage:
    """Add up the tokens of a request."""
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    truncated: bool = False
    """Whether the input lost tokens to the prompt's own limit."""


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Classified(BaseModel):
    index: int
    prediction: str
    probability: float
    probabilities: dict[str, float]
    logprobs: dict[str, float]
    """Log-probability of each choice's tokens, in nats."""
    truncated: bool = False


class Classification(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[Classified]
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "softprompt"


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class StoredPrompt(BaseModel):
    name: str
    version: int
    modified: int
    card: dict[str, object] | None = None
    """The run's prompt.json."""
    error: str | None = None
    """Why it cannot be used, where its card cannot be read."""
    nearest: list[list[str]] | None = None
    """Words of the vocabulary nearest each of its rows, where they were requested."""


class StoredPrompts(BaseModel):
    object: Literal["list"] = "list"
    data: list[StoredPrompt]
    total: int
    """Of those that match the search, on all pages."""
    has_more: bool


class Removed(BaseModel):
    name: str
    deleted: bool = True


class Problem(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ProblemBody(BaseModel):
    """An error in OpenAI's format."""

    error: Problem


class Health(BaseModel):
    status: str
