"""Question answering in the form of MRQA 2019 (Fisch et al., https://arxiv.org/abs/1910.09753): answers are spans.

Every gold answer counts, as it is written. DePT's code pads the punctuation of targets, scores against the first alone
and selects by exact match (softprompt.tasks.published.defects).
"""

import re
import unicodedata

from softprompt.tasks.published.entry import Entry, Form, Prepared, Values, bullet_list

MARK = re.compile(r"[^\w\s]")
"""Neither letter, digit, underscore nor space: punctuation of every script, and combining accents."""
COLUMNS = ("question", "context", "answers")
PAPER = Form("question: {padded_question} context: {padded_context}")
WORDS = Form("Question: {question}\nContext: {context}\nAnswer:")
"""The context is last: a long one is truncated at its end, and the question is kept."""


def qa(values: Values) -> Prepared:
    """Read `answers`, a list of texts or SQuAD's object with a list `text`; the first is the target.

    padded_question and padded_context have spaces around punctuation, as in T5's preprocessor.
    """
    golds = tuple(dict.fromkeys(answer.strip() for answer in bullet_list(values, "answers") if answer.strip()))
    padded = {f"padded_{name}": pad_punctuation(values[name]) for name in ("question", "context")}
    return Prepared({**values, **padded}, golds[0] if golds else "", golds)


def pad_punctuation(text: str) -> str:
    """Put spaces around every punctuation mark but "_", and make spaces single (T5's `_pad_punctuation`)."""
    return re.sub(r"\s+", " ", MARK.sub(_pad, text)).strip()


def _pad(found: re.Match[str]) -> str:
    """Put spaces around a mark, unless it is an accent (Unicode's category M) of the letter before it."""
    return found[0] if unicodedata.category(found[0]).startswith("M") else f" {found[0]} "


def _entry(task: str, about: str, citation: str, path: str, train: int, validation: int) -> Entry:
    return Entry(
        name=f"mrqa/{task}", about=about, citation=citation, path=path, rows={"train": train, "validation": validation},
        label="answers", metrics=("token_f1", "exact_match"), kin="context",
        prepare=qa, columns=COLUMNS, paper=PAPER, words=WORDS,
    )  # fmt: skip


ENTRIES = (
    _entry(
        "nq", "Questions to a search engine, answered from Wikipedia.",
        "Kwiatkowski et al. 2019, Natural Questions (MRQA's subset)",
        "lucadiliello/naturalquestionsshortqa", 104071, 12836,
    ),
    _entry(
        "hotpotqa", "Questions that need two paragraphs of Wikipedia.",
        "Yang et al. 2018, HotpotQA (MRQA's subset)", "lucadiliello/hotpotqa", 72928, 5901,
    ),
    _entry(
        "searchqa", "Questions of Jeopardy! with what a search engine found.",
        "Dunn et al. 2017, SearchQA (MRQA's subset)", "lucadiliello/searchqa", 117384, 16980,
    ),
    _entry(
        "newsqa", "Questions about news articles of CNN.",
        "Trischler et al. 2017, NewsQA (MRQA's subset)", "lucadiliello/newsqa", 74160, 4212,
    ),
    _entry(
        "squad", "Questions about paragraphs of Wikipedia.",
        "Rajpurkar et al. 2016, SQuAD: 100,000+ Questions for Machine Comprehension of Text (version 1.1)",
        "rajpurkar/squad", 87599, 10570,
    ),
    _entry(
        "triviaqa", "Questions of trivia with pages of the web.",
        "Joshi et al. 2017, TriviaQA (MRQA's subset)", "lucadiliello/triviaqa", 61688, 7785,
    ),
)  # fmt: skip
