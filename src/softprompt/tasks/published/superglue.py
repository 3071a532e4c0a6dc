"""SuperGLUE (Wang et al. 2019, https://arxiv.org/abs/1905.00537). Its test labels are hidden: test is validation."""

import hashlib
import re

from softprompt.tasks.published.entry import Entry, Form, Prepared, Values, bullet_list, digits

HUB = "aps/super_glue"
TWO = digits(2)
FALSE_TRUE = ("False", "True")
NO_YES, YES_NO = ("no", "yes"), ("yes", "no")
NLI_PAPER = "premise: {premise} hypothesis: {hypothesis}"
ASKED = {"cause": "What was the cause?", "effect": "What happened as a result?"}


def copa(values: Values) -> Prepared:
    """Add the question in words as the column `asked`; DePT's code omits it."""
    if values["question"] not in ASKED:
        raise ValueError(f"{values['question']!r} (column 'question') is neither cause nor effect")
    return Prepared({**values, "asked": ASKED[values["question"]]}, values["label"])


def multirc(values: Values) -> Prepared:
    """Remove tags from the text (a line break becomes a space); the answers to one question are a group."""
    cleaned = {name: _untagged(values[name]) for name in ("paragraph", "question", "answer")}
    asked = f"{values['paragraph']}\n{values['question']}"
    group = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return Prepared({**values, **cleaned}, values["label"], group=group)


def record(values: Values) -> Prepared:
    """Count any spelling of the missing entity; the first is the target. @highlight marks become sentence ends."""
    answers = tuple(dict.fromkeys(bullet_list(values, "answers")))
    entities = ", ".join(dict.fromkeys(bullet_list(values, "entities")))
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", values["passage"])
    passage = passage.replace("\n@highlight\n", ". ")
    return Prepared({**values, "entities": entities, "passage": passage}, answers[0] if answers else "", answers)


def wsc(values: Values) -> Prepared:
    """Put ` * ` around the noun and ` # ` around the pronoun (T5, Raffel et al. 2020, appendix D)."""
    text = values["text"]
    pieces = []
    for i, mark in ((1, "*"), (2, "#")):
        start, end = _span(text, values[f"span{i}_text"], int(values[f"span{i}_index"]))
        # In "their mothers" the pronoun is within the noun: the longer one opens first and closes last.
        pieces += [(start, 1, start - end, f"{mark} "), (end, 0, end - start, f" {mark}")]
    for place, _, _, piece in sorted(pieces, reverse=True):  # from the end, so that earlier positions stay valid
        text = f"{text[:place]}{piece}{text[place:]}"
    return Prepared({**values, "text": text}, values["label"])


def _untagged(text: str) -> str:
    return re.sub(r"</?b>", "", text.replace("<br>", " "))


def _span(text: str, span: str, index: int) -> tuple[int, int]:
    """Find `span` nearest to word `index`, which a published row may miss by one.

    A span that is spelled differently in the text is replaced by as many words from word `index` on.
    """
    words = list(re.finditer(r"\S+", text))
    last = index + max(1, len(span.split())) - 1
    if not 0 <= index <= last < len(words):
        raise ValueError(f"the span {span!r} at word {index} is outside the text of {len(words)} words")
    start = words[index].start()
    spelled = [found.span() for found in re.finditer(rf"(?<!\w){re.escape(span)}(?!\w)", text, re.IGNORECASE)]
    return min(spelled, key=lambda place: abs(place[0] - start)) if spelled else (start, words[last].end())


ENTRIES = (
    Entry(
        name="superglue/boolq", about="Is the answer to a question yes, by a passage of Wikipedia?",
        citation="Clark et al. 2019, BoolQ: Exploring the Surprising Difficulty of Natural Yes/No Questions",
        path=HUB, config="boolq", rows={"train": 9427, "validation": 3270, "test": 3245},
        labels=FALSE_TRUE, kin="passage",
        paper=Form("question: {question} passage: {passage}", TWO),
        words=Form("Question: {question}?\nPassage: {passage}\nAnswer, yes or no:", NO_YES),
    ),
    Entry(
        name="superglue/cb", about="Is the speaker committed to an embedded clause?",
        citation="De Marneffe et al. 2019, The CommitmentBank",
        path=HUB, config="cb", rows={"train": 250, "validation": 56, "test": 250},
        labels=("entailment", "contradiction", "neutral"), metrics=("macro_f1", "accuracy"),
        paper=Form(NLI_PAPER, digits(3)),
        words=Form(
            "Premise: {premise}\nHypothesis: {hypothesis}\nIs the hypothesis true, false or neither?",
            ("true", "false", "neither"),
        ),
    ),
    Entry(
        name="superglue/copa", about="Which of two things is the cause, or the effect?",
        citation="Roemmele et al. 2011, Choice of Plausible Alternatives",
        path=HUB, config="copa", rows={"train": 400, "validation": 100, "test": 500},
        labels=("choice1", "choice2"),
        prepare=copa, columns=("premise", "choice1", "choice2", "question", "label"),
        paper=Form("premise: {premise} choice1: {choice1} choice2: {choice2}", TWO),
        words=Form(
            "{premise} {asked}\nFirst: {choice1}\nSecond: {choice2}\nThe right one is the", ("first", "second")
        ),
    ),
    Entry(
        name="superglue/multirc", about="Is an answer right, by several sentences of a paragraph?",
        citation="Khashabi et al. 2018, Looking Beyond the Surface",
        path=HUB, config="multirc", rows={"train": 27243, "validation": 4848, "test": 9693},
        labels=FALSE_TRUE, metrics=("f1", "question_em", "accuracy"), kin="paragraph",
        prepare=multirc, columns=("paragraph", "question", "answer", "label"),
        paper=Form("question: {question} answer: {answer} paragraph: {paragraph}", TWO),
        words=Form("Question: {question}\nAnswer: {answer}\nText: {paragraph}\nIs the answer right?", NO_YES),
    ),
    Entry(
        name="superglue/record", about="Which entity is left out of a sentence about a news article?",
        citation="Zhang et al. 2018, ReCoRD (https://arxiv.org/abs/1810.12885)",
        path=HUB, config="record", rows={"train": 100730, "validation": 10000, "test": 10000},
        label="answers", metrics=("token_f1", "exact_match"), kin="passage",
        prepare=record, columns=("passage", "query", "entities", "answers"),
        paper=Form("record query: {query} entities: {entities} passage: {passage}"),
        words=Form("Query: {query}\nEntities: {entities}\nArticle: {passage}\n@placeholder is"),
    ),
    Entry(
        name="superglue/rte", about="Does a premise entail a hypothesis? (the rows of glue/rte)",
        citation="Dagan et al. 2006, The PASCAL Recognising Textual Entailment Challenge (RTE 1, 2, 3, 5)",
        path=HUB, config="rte", rows={"train": 2490, "validation": 277, "test": 3000},
        labels=("entailment", "not_entailment"),
        paper=Form(NLI_PAPER, TWO),
        words=Form("Premise: {premise}\nHypothesis: {hypothesis}\nIs the hypothesis true?", YES_NO),
    ),
    Entry(
        name="superglue/wic", about="Does a word mean the same in two sentences?",
        citation="Pilehvar and Camacho-Collados 2019, WiC: the Word-in-Context Dataset",
        path=HUB, config="wic", rows={"train": 5428, "validation": 638, "test": 1400},
        labels=FALSE_TRUE,
        paper=Form("sentence1: {sentence1} sentence2: {sentence2} word: {word}", TWO),
        words=Form(
            "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nDoes {word} mean the same in both?", NO_YES
        ),
    ),
    Entry(
        name="superglue/wsc", about="Does a marked pronoun mean a marked noun?",
        citation="Levesque et al. 2012, The Winograd Schema Challenge",
        path=HUB, config="wsc.fixed", rows={"train": 554, "validation": 104, "test": 146},
        labels=FALSE_TRUE,
        prepare=wsc, columns=("text", "span1_text", "span1_index", "span2_text", "span2_index", "label"),
        paper=Form("text: {text}", TWO),
        words=Form("{text}\nDoes # {span2_text} # mean * {span1_text} *?", NO_YES),
    ),
)  # fmt: skip
