"""What the engine tells of its work, for metrics."""

from softprompt.serving.engine.sequence import Question


class Watch:
    """Listen to the engine's work; this one ignores it."""

    def on_rank(self, rows: int) -> None:
        """Note that a pass ranked the choices of so many questions."""

    def on_join(self, rows: int) -> None:
        """Note that so many generations joined the running batch."""

    def on_step(self, rows: int) -> None:
        """Note that a step gave so many generations a token."""

    def on_leave_queue(self, question: Question, seconds: float) -> None:
        """Note how long a request has waited."""

    def on_first_token(self, question: Question, seconds: float) -> None:
        """Note how long a request has waited for its first token."""

    def on_end(self, question: Question, tokens: int, seconds: float) -> None:
        """Note that an answer has so many tokens, and how long those after the first took."""
