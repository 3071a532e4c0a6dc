"""The bodies of requests and responses. Names and shapes are those of OpenAI's API where it has them."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from softprompt.errors import BadInput
from softprompt.serving.preprocess import BackboneInfo

Text = Annotated[str, StringConstraints(max_length=10_000_000)]
Columns = dict[str, str | int | float | bool]
ModelName = Annotated[str, Field(min_length=1, max_length=120, description="A prompt's name, or base for none.")]
WIDEST = 2**63


class Body(BaseModel):
    """Base of request bodies: unknown fields and other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _as_list(value: object) -> object:
    """Make one text, or one list of token ids, a list of one."""
    ids = isinstance(value, list) and bool(value) and all(type(one) is int for one in value)
    return [value] if isinstance(value, str | dict) or ids else value


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1_000_000)]
Inputs = Annotated[
    list[Text | Columns],
    BeforeValidator(_as_list, json_schema_input_type=Text | Columns | list[Text | Columns]),
    Field(min_length=1),
]
Prompts = Annotated[
    list[Text | Columns | TokenIds],
    BeforeValidator(_as_list, json_schema_input_type=Text | Columns | TokenIds | list[Text | Columns | TokenIds]),
    Field(min_length=1),
]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]
Schema = dict[str, object]
Pattern = Annotated[str, Field(min_length=1, max_length=10_000)]
Choice = Annotated[str, Field(min_length=1, max_length=2000)]
Choices = Annotated[list[Choice], Field(min_length=1)]


class StreamOptions(Body):
    include_usage: bool = False


class JSONSchema(Body):
    name: str = ""
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's, and the type `choice`: one of the prompt's own choices."""

    type: Literal["text", "json_object", "json_schema", "choice"]
    json_schema: JSONSchema | None = None


class StructuredOutputs(Body):
    """What the answer must be, under vLLM's names; one of them."""

    json_: Schema | None = Field(None, alias="json")
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Annotated[str, Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="In llguidance's Lark: https://github.com/guidance-ai/llguidance."
    )


class SamplingBody(Body):
    """How an answer is generated. Temperature is 0 unless given: the answer that `softprompt predict` gives."""

    model: ModelName
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=128, description="Answers to each text.")
    seed: int | None = Field(None, ge=-WIDEST, lt=WIDEST)
    stop: Stops | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=100)] | None = None
    min_tokens: int = Field(0, ge=0, le=10_000_000, description="Tokens before the model may end.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1000)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Ignored.")

    def harmless(self) -> dict[str, tuple[object, ...]]:
        """Return the fields that cannot be served, with the values that change nothing."""
        return {}

    def refuse_unsupported_fields(self) -> None:
        """Raise Unsupported for a field that would change the answer and cannot be served."""
        for name, values in self.harmless().items():
            if (given := getattr(self, name)) not in values:
                raise Unsupported(f"{name}={given!r} is not supported by this server; leave it out.", name)
        if self.stream_options is not None and not self.stream:
            raise Unsupported("stream_options is only for stream=true.", "stream_options")


class CompletionBody(SamplingBody):
    """OpenAI's parameters of completions, and some of vLLM's."""

    prompt: Prompts = Field(
        description="A text or several; an object where the template has several columns; token ids, as they are."
    )
    raw: bool = Field(False, description="Take the prompt as it is: no template is filled, no blanks are stripped.")
    max_tokens: int | None = Field(None, ge=0, le=10_000_000, description="20 when not given, as predict's.")
    echo: bool | None = Field(None, description="Begin each answer with its prompt; with logprobs, its tokens' too.")
    logprobs: int | None = Field(None, ge=0, le=20)
    # OpenAI's parameters that this server does not have: refused unless they change nothing.
    best_of: int | None = None
    suffix: str | None = None

    def harmless(self) -> dict[str, tuple[object, ...]]:
        return {"best_of": (None, 1), "suffix": (None, "")}


class TextPart(Body):
    type: Literal["text"]
    text: Text


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = Field(None, description="Ignored.")

    @property
    def text(self) -> str:
        """All that it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(SamplingBody):
    """OpenAI's parameters of chat completions, and some of vLLM's."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] = Field(
        description="Written with the chat template of the prompt or, for base, the backbone; a prompt without one "
        "reads the last user's message."
    )
    max_tokens: int | None = Field(None, ge=1, le=10_000_000, description="20 when not given, as predict's.")
    max_completion_tokens: int | None = Field(None, ge=1, le=10_000_000, description="OpenAI's newer name of it.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    # OpenAI's parameters that this server does not have: refused unless they change nothing.
    tools: list[Schema] | None = None
    tool_choice: str | Schema | None = None
    functions: list[Schema] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = Field(None, description="Ignored.")
    service_tier: str | None = Field(None, description="Ignored.")

    def harmless(self) -> dict[str, tuple[object, ...]]:
        return {
            "tools": (None, []), "tool_choice": (None, "none", "auto"), "functions": (None, []),
            "parallel_tool_calls": (None, False, True), "modalities": (None, ["text"]), "store": (None, False),
        }  # fmt: skip


class Unsupported(BadInput):
    """A known parameter with a value that cannot be served."""

    def __init__(self, message: str, param: str) -> None:
        self.param = param
        super().__init__(message)


class ClassifyBody(Body):
    model: ModelName
    input: Inputs = Field(description="A text or several; an object where the template has several columns.")
    choices: Choices | None = Field(None, description="What to choose from; the prompt's own choices when not given.")
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
    token_logprobs: list[float | None]
    """None: nothing stands before the token."""
    top_logprobs: list[dict[str, float] | None] | None
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


class TopToken(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopToken):
    top_logprobs: list[TopToken]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]


class ChatText(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatAnswer(BaseModel):
    index: int
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    truncated: bool = False
    """Whether the input lost tokens to the prompt's own limit."""


class ChatChoice(ChatAnswer):
    message: ChatText


class ChatPart(ChatAnswer):
    delta: ChatText


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatPart]
    usage: Usage | None = None


class TokenizeBody(Body):
    prompt: Text
    add_special_tokens: bool = True


class Tokenized(BaseModel):
    count: int
    max_model_len: int | None
    tokens: list[int]


class DetokenizeBody(Body):
    tokens: TokenIds


class Detokenized(BaseModel):
    prompt: str


class Info(BaseModel):
    """What is served, and how much one request may ask."""

    backbone: BackboneInfo
    fingerprint: str
    prompts: int
    limits: dict[str, float]
    batching: dict[str, float]
    versions: dict[str, str]


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
