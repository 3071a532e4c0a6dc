"""Several soft prompts on one frozen backbone."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from softprompt.errors import BadInput
from softprompt.methods.soft_prompt import HasModel, SoftPrompt


class Bank(nn.Module):
    """k named soft prompts that share one frozen backbone; each row of a batch names its own.

    Row i of prompt j is the soft token with id v + starts[j] + i, so an id alone says which learned row
    it stands for.
    """

    def __init__(self, prompts: dict[str, SoftPrompt] | None = None) -> None:
        super().__init__()
        self.names: list[str] = []
        self.prompts = nn.ModuleList()
        self.starts: list[int] = []
        self.size = 0  # soft tokens in all
        for name, prompt in (prompts or {}).items():
            self.add(name, prompt)

    def add(self, name: str, prompt: SoftPrompt) -> None:
        """Add a soft prompt under a name of its own. Raises BadInput for one that cannot stand beside the others."""
        if name in self.names:
            raise BadInput(f"The bank already holds a prompt named {name!r}; names must differ.")
        if len(self) and "network" in (prompt.kind, self[0].kind):
            raise BadInput(
                f"{name} cannot share a bank with {', '.join(self.names)}: a baseline changes the network itself, for "
                "every row of a batch. Give it a bank of its own."
            )
        self.names.append(name)
        self.prompts.append(prompt)
        self.starts.append(self.size)
        self.size += prompt.length

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[SoftPrompt]:
        return iter(self.prompts)  # type: ignore[arg-type]  # a ModuleList does not know what it holds

    def __getitem__(self, index: int) -> SoftPrompt:
        prompt = self.prompts[index]
        assert isinstance(prompt, SoftPrompt)
        return prompt

    def soft_ids(self, index: int, v: int) -> list[int]:
        """List the ids of prompt `index`'s soft tokens over a vocabulary of v; index -1 stands for no prompt."""
        if index < 0 and len(self) and self[0].kind == "network":
            raise BadInput(f"{self.names[0]} works inside the network; ask without it outside of its `using` block.")
        return [] if index < 0 else list(range(v + self.starts[index], v + self.starts[index] + self[index].length))

    def longest(self, indices: Iterable[int]) -> int:
        """Count the positions that the longest of these prompts takes; -1 stands for no prompt."""
        return max((self[i].places for i in indices if i >= 0), default=0)

    @contextmanager
    def inside(self, host: HasModel) -> Iterator[None]:
        """Let a baseline take effect on `host`'s network inside the block."""
        with ExitStack() as stack:
            for prompt in self:
                stack.enter_context(prompt.inside(host))
            yield
