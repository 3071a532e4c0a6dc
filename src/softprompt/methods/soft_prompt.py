"""The contract of a soft prompt, whatever its method.

A soft prompt is two independent parts. The *prompt part* makes the rows that stand in front of the
input; the *offset part*, if any, makes what is added to the token embeddings of the source. A part
sees frozen embeddings and masks and returns tensors; it knows no model, tokenizer or file.

Letters (the same everywhere): b batch rows, l prompt length, s source tokens, d hidden size, r rank,
v vocabulary size, k prompts in a bank.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.folded import AdapterTensors, Folded, Kind, TokenOffset, Unfolded


class Text(NamedTuple):
    """The real tokens of a batch, as a part may look at them."""

    ids: Int[Tensor, "b s"]
    embeds: Float[Tensor, "b s d"]
    """Frozen, as the backbone's own table gives them (scaled where the table scales)."""
    mask: Bool[Tensor, "b s"]
    """True at real source tokens: not at padding, soft tokens or target tokens."""
    position: Int[Tensor, "b s"]
    """Rank of each real source token in its own example, -1 elsewhere: the side of the padding does not matter."""
    context: object = None
    """What a backbone offers beside the text (task id, image features), or None."""


class Soft(NamedTuple):
    """What a soft prompt contributes to a batch."""

    prompt: Float[Tensor, "l d"] | Float[Tensor, "b l d"]
    offset: Float[Tensor, "b s d"] | None = None
    """Added to real source tokens only; its values elsewhere are ignored."""
    penalty: Float[Tensor, ""] | None = None
    """Added to the loss."""


@runtime_checkable
class HasModel(Protocol):
    """A backbone, as far as a baseline needs it to work inside the frozen network."""

    model: nn.Module

    @property
    def recomputes_layers(self) -> bool:
        """Whether the backward pass runs layers a second time (gradient checkpointing)."""

    def unfused(self) -> AbstractContextManager[None]:
        """Run norms as transformers writes them inside the block, so that their weights get gradients."""


class PromptPart(nn.Module):
    """A module that makes the learned rows. Subclasses define `length`, `forward` and `groups`."""

    length: int
    kind: Kind = "prompt"
    has_penalty: bool = False
    """Whether `penalty` gives anything."""
    step: int = 0
    """The optimizer step under way: what a part draws in training changes with it
    (softprompt.methods.row_generators)."""

    def forward(self, text: Text | None) -> Tensor:
        """Return the rows (l, d), or (b, l, d) when they depend on the input (kind "input")."""
        raise NotImplementedError

    def penalty(self, text: Text) -> Tensor | None:
        """Compute what is added to the mean token loss of these examples, in nats; None for nothing.

        Called once per step with all of the step's examples, so it need not be a sum over them.
        """
        return None

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Name the trainable tensors as a recipe does to set their learning rate and weight decay."""
        raise NotImplementedError

    def set_rows(self, rows: Tensor) -> None:
        """Start at `rows` (l, d). Only parts that can make any rows have it (`Options.accepts_rows`)."""
        raise NotImplementedError

    def undecayed(self) -> set[str]:
        """Name the groups that never get weight decay, whatever the recipe says."""
        return set()


class OffsetPart(nn.Module):
    """A module that makes what is added to the source's token embeddings."""

    kind: Kind
    step: int = 0
    """See PromptPart.step."""

    def forward(self, text: Text) -> Tensor:
        """Return the offset (b, s, d)."""
        raise NotImplementedError

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Name the trainable tensors (see PromptPart.groups); every name begins with "offset"."""
        raise NotImplementedError

    def start_from(self, tensors: dict[str, Tensor]) -> None:
        """Take the tensors (of this part's own names and shapes) that another run of it ended with.

        At every position the part then adds what the other one's fold adds.
        """
        self.load_state_dict(tensors)

    def fold(self) -> tuple[Tensor | TokenOffset, int]:
        """Return the table or network that the offset folds to, and how many rows were zeroed as never trained."""
        raise NotImplementedError


class SoftPrompt(nn.Module):
    """A prompt part and, for some methods, an offset part."""

    def __init__(self, prompt: PromptPart, offset: OffsetPart | None = None) -> None:
        super().__init__()
        self.prompt, self.offset = prompt, offset

    @property
    def length(self) -> int:
        return self.prompt.length

    @property
    def kind(self) -> Kind:
        """What this folds to. A part that looks at the input makes the whole look at the input."""
        parts = (self.prompt.kind,) if self.offset is None else (self.prompt.kind, self.offset.kind)
        return "input" if "input" in parts else parts[-1]

    @property
    def places(self) -> int:
        """Positions of the network that it takes."""
        return self.length

    @property
    def can_pack(self) -> bool:
        """Whether it may be computed once for all its examples, and these lie one after another in one row."""
        return self.kind != "input"

    def inside(self, host: HasModel) -> AbstractContextManager[None]:
        """Take effect on `host`'s network inside the block; rows and offsets need nothing there."""
        return nullcontext()

    def forward(self, text: Text) -> Soft:
        penalty = self.prompt.penalty(text) if self.training else None
        return Soft(self.prompt(text), None if self.offset is None else self.offset(text), penalty)

    def at_step(self, step: int) -> None:
        """Tell the parts which optimizer step is under way."""
        for part in (self.prompt, self.offset):
            if part is not None:
                part.step = step

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Name the trainable tensors, the parts' groups side by side."""
        found = dict(self.prompt.groups())
        for name, tensors in ({} if self.offset is None else self.offset.groups()).items():
            if name in found:
                raise BadInput(f"Both parts of the soft prompt name a group {name!r}; group names must differ.")
            found[name] = tensors
        return found

    def fold(self) -> Folded:
        """Reduce to plain tensors. Folded and unfolded give the same embeddings.

        Raises BadInput when the soft prompt depends on the input (kind "input").
        """
        if self.kind == "input":
            raise BadInput("This soft prompt looks at its input, so it cannot be folded to tensors.")
        rows = self.prompt(None).detach().clone()
        if self.offset is None:
            return Folded(self.kind, rows)
        made, zeroed = self.offset.fold()
        if isinstance(made, TokenOffset):
            return Folded(self.kind, rows, zeroed=zeroed, network=made)
        return Folded(self.kind, rows, made, zeroed)

    def deployable(self) -> Folded | Unfolded | AdapterTensors:
        """Return what is stored of this: folded where that can be, else its own tensors as they are."""
        if self.kind != "input":
            return self.fold()
        return Unfolded({name: tensor.detach().clone() for name, tensor in self.state_dict().items()})

    def trainable(self) -> int:
        """Count the trainable values."""
        return sum(tensor.numel() for tensors in self.groups().values() for tensor in tensors)
