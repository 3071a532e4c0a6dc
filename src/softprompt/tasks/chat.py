"""Write turns of a chat as a model was trained to read them: the pieces of its chat template, as plain strings."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from softprompt.errors import BadInput

Turn = tuple[str, str]
"""Role (system, user, assistant) and text."""


class Chat(BaseModel):
    """What a chat template writes around the texts of a chat.

    A run keeps these strings, so that its prompt reads the same text on every day, on a server and in an export,
    whatever becomes of the template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    opening: str
    """Before the first user's text."""
    reply: str
    """Between a user's text and the assistant's."""
    user: str
    """Between an assistant's text and the user's."""
    answer: str
    """After the last user's text: the answer follows."""
    system: tuple[str, str] | None
    """Before a system's text and between it and the user's; None: it stands at the beginning of the user's text."""

    def frame(self, template: str) -> str:
        """Return a template of one user's text as a template of the whole chat, which ends where the answer begins."""
        return _escape(self.opening) + self.close(template)

    def close(self, template: str) -> str:
        """Return `template`, which shows a `conversation` as `write` makes it, with what stands before the answer."""
        return template.rstrip() + _escape(self.answer)

    def write(self, turns: Sequence[Turn]) -> str:
        """Write turns up to the end of the last one, which is a user's. Raises BadInput for roles in another order."""
        roles = [role for role, _ in turns]
        said = list(turns[1:] if roles[0] == "system" else turns)
        if [role for role, _ in said] != ["user", "assistant"] * (len(said) // 2) + ["user"]:
            raise BadInput(
                f"the turns before the answer are {', '.join(roles)}; expected an optional system, then user and "
                "assistant in turn, the last of them user"
            )
        texts = [text.strip() for _, text in said]
        made = self.opening + texts[0]
        if roles[0] == "system":
            before, after = self.system or (self.opening, "\n\n")
            made = before + turns[0][1].strip() + after + texts[0]
        for i, text in enumerate(texts[1:]):
            made += (self.user if i % 2 else self.reply) + text
        return made


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
