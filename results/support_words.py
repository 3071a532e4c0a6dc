"""Zero-shot accuracy of templates and label words on the shipped task's training messages.

python results/support_words.py
"""

from pathlib import Path

import softprompt
from softprompt import Bank, from_files, load_backbone
from softprompt.evaluation.evaluate import evaluate_examples, score

TEAMS = ("billing", "delivery", "returns", "account", "technical", "sales")
WORDS = (
    ("payment", "delivery", "return", "password", "setup", "shopping"),
    ("charges", "delivery", "returns", "passwords", "setup", "products"),
    ("payment", "delivery", "returns", "account", "technical", "buying"),
    ("billing", "delivery", "returns", "login", "technology", "products"),
    ("money", "delivery", "returns", "account", "device", "purchase"),
    ("charges", "shipping", "returning", "login", "technical", "sales"),
    ("payments", "deliveries", "returns", "accounts", "technology", "sales"),
)
TEMPLATES = (
    "Message: {text}\nThis message is about",
    "A customer writes to a shop: {text}\nThe customer needs help with",
)


def main() -> None:
    folder = Path(softprompt.__file__).parent / "tasks" / "samples" / "support"
    backbone = load_backbone("smollm2-135m")
    for template in TEMPLATES:
        for words in WORDS:
            task = from_files(
                folder / "train.jsonl", dev=folder / "dev.jsonl", test=folder / "test.jsonl", label="team",
                template=template, words=dict(zip(TEAMS, words, strict=True)),
            )  # fmt: skip
            shortest = sorted(task.examples["train"], key=lambda example: len(example.source))[:220]
            with backbone.using(Bank()):
                metrics = score(evaluate_examples(backbone, shortest), task.metrics).metrics
            print(f"{template!r}  {', '.join(words)}  {metrics}", flush=True)


if __name__ == "__main__":
    main()
