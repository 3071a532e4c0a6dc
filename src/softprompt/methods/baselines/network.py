"""What every baseline is: trained tensors inside the network, with the interface of a soft prompt without rows.

LoRA, prefix tuning or full fine-tuning change the network for every row of a batch, so a baseline is alone in its bank
(softprompt.methods.bank.Bank). Everything else about it is a soft prompt's: groups, optimizer, best state, checkpoint.
Only `inside` is its own: in that block the network computes with its tensors, and afterwards it is bit for bit what it
was.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from torch import Tensor, nn

from softprompt.errors import BadInput, PromptMismatch
from softprompt.methods.folded import AdapterTensors, Kind
from softprompt.methods.options import InitContext, Options
from softprompt.methods.soft_prompt import HasModel, PromptPart, Soft, SoftPrompt, Text


class NoRows(PromptPart):
    """A prompt of length 0."""

    length = 0
    kind: Kind = "network"

    def forward(self, text: Text | None) -> Tensor:
        assert text is not None
        return text.embeds.new_zeros(0, text.embeds.shape[-1])


class BaselineOptions(Options):
    """Options of a baseline. A subclass says where its tensors work and how they start."""

    prompt_part = NoRows
    group: ClassVar[str]
    """The group that a recipe sets a learning rate for."""
    can_pack: ClassVar[bool] = False
    """Whether packed rows give the losses and gradients of padded ones."""

    def start(self, model: nn.Module, seed: int) -> AdapterTensors:
        """Make the tensors at their start on `model`, in float32; `model` stays as it is. Raises BadInput."""
        raise NotImplementedError

    def inside(self, host: HasModel, tensors: dict[str, nn.Parameter]) -> AbstractContextManager[None]:
        """Let `host`'s network compute with `tensors` inside the block. Raises PromptMismatch when they do not fit."""
        raise NotImplementedError

    def places(self) -> int:
        """Count the positions of the network that it takes."""
        return 0

    def soft_prompt(self, context: InitContext) -> SoftPrompt:
        from torch.distributed.fsdp import FSDPModule  # half a second, which runs without a baseline need not wait

        if context.model is None:
            raise BadInput("A baseline needs the network that it works in; tune it with softprompt train.")
        # torch 2.13.0: Module.compile() leaves no other mark on a module than this attribute.
        if any(module._compiled_call_impl is not None for module in context.model.modules()):
            raise BadInput("--compile compiles the layers as they are; a baseline changes them. Leave out --compile.")
        if any(isinstance(module, FSDPModule) for module in context.model.modules()):
            raise BadInput("--fsdp shards layers that stay as they are; a baseline changes them. Leave out --fsdp.")
        return self.stored(self.start(context.model, context.seed))

    def stored(self, form: AdapterTensors) -> SoftPrompt:
        return Baseline(self, form)


class Baseline(SoftPrompt):
    """Trained tensors inside the network; `form` has them at their start, or as they were stored."""

    def __init__(self, options: BaselineOptions, form: AdapterTensors) -> None:
        super().__init__(NoRows())
        self.options, self.adapter = options, form.adapter
        self.tree = _tree({name: tensor.detach().float().clone() for name, tensor in form.tensors.items()})

    @property
    def tensors(self) -> dict[str, nn.Parameter]:
        """What is trained, by its names in the network or in PEFT's file."""
        return dict(self.tree.named_parameters())

    @property
    def places(self) -> int:
        return self.options.places()

    @property
    def can_pack(self) -> bool:
        return self.options.can_pack

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {self.options.group: list(self.tensors.values())}

    def inside(self, host: HasModel) -> AbstractContextManager[None]:
        return self.options.inside(host, self.tensors)

    def forward(self, text: Text) -> Soft:
        return Soft(self.prompt(text))

    def deployable(self) -> AdapterTensors:
        return AdapterTensors({name: tensor.detach().clone() for name, tensor in self.tensors.items()}, self.adapter)


def _tree(tensors: dict[str, Tensor]) -> nn.Module:
    """Make modules with `tensors` as parameters, nested as the dots in their names say."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(tensor))
    return root


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Give `model` back, after the block, the very modules, tensors and modes that it had before."""
    before = [(m, dict(m._modules), dict(m._parameters), m.training) for m in model.modules()]
    own = set(vars(model))
    frozen = [(tensor, tensor.requires_grad) for tensor in model.parameters()]
    try:
        yield
    finally:
        # torch 2.13.0: a module finds its children and tensors in these dictionaries, in this order; what was put in
        # would stay there.
        for module, modules, parameters, training in before:
            module._modules.clear()
            module._modules.update(modules)
            module._parameters.clear()
            module._parameters.update(parameters)
            module.training = training
        for tensor, requires_grad in frozen:
            tensor.requires_grad_(requires_grad)
        for name in set(vars(model)) - own:
            delattr(model, name)


def check_fit(tensors: dict[str, nn.Parameter], places: dict[str, Tensor], what: str) -> None:
    """Raise PromptMismatch unless each tensor has its place in the network, of its own shape, and each place one."""
    found, wanted = ({name: tuple(t.shape) for name, t in one.items()} for one in (tensors, places))
    if found != wanted:
        other = next(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
        raise PromptMismatch(
            f"What {what} trained does not fit this network: {other} is {found.get(other, 'not there')}, and the "
            f"network has {wanted.get(other, 'no such place')}. Use the backbone it was trained on."
        )
