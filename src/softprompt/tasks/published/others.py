"""Tasks of neither benchmark: those of DePT's table 2, the classics of prompt tuning, and GSM8K."""

import re
from collections.abc import Mapping

from softprompt.tasks.metrics import final_number
from softprompt.tasks.published.entry import Entry, Form, Prepared, Values, digits
from softprompt.tasks.published.glue import NLI, NLI_PAPER, NLI_WORDS, NO_YES, PAIR, TWO
from softprompt.tasks.task import Split

TRAIN_TEST: Mapping[Split, str] = {"train": "train", "test": "test"}
PUBLISHED: Mapping[Split, str] = {"train": "train", "dev": "validation", "test": "test"}
POLARITY = ("negative", "positive")
REVIEW = Form("Review: {text}\nSentiment:", POLARITY)


LONGEST = 1300
"""Characters of a question and its solution in MetaMathQA beyond which PEFT's comparison leaves them out (data.py)."""


def gsm8k(values: Values) -> Prepared:
    """Make a worked solution the target and its last number the reference; reads MetaMathQA's columns, too.

    Rows of MetaMathQA that are longer than 768 tokens, more or less, are left out, as in PEFT's comparison.
    """
    is_gsm8k = "question" in values or "query" not in values
    question, answer = (values[name] for name in (("question", "answer") if is_gsm8k else ("query", "response")))
    if not is_gsm8k and len(f"{question} {answer}") > LONGEST:
        return Prepared({"question": question}, "")
    answer = re.sub(r"<<[^>]*>>", "", answer)  # calculator annotations
    number = final_number(answer)
    # MetaMathQA's questions from MATH may end in a formula: they are trained on, and are not in the test.
    return Prepared({"question": question}, answer, (number,) if number else ())


ENTRIES = (
    Entry(
        name="others/winogrande", about="Which of two names fills a gap?",
        citation="Sakaguchi et al. 2020, WinoGrande: An Adversarial Winograd Schema Challenge at Scale",
        path="allenai/winogrande", config="winogrande_xl", rows={"train": 40398, "validation": 1267, "test": 1767},
        label="answer", labels=("1", "2"),
        # DePT's code shows option1 twice, so that its model cannot know the second.
        paper=Form("sentence: {sentence} option0: {option1} option1: {option2}", TWO),
        words=Form("{sentence}\nWhat is _?\nFirst: {option1}\nSecond: {option2}\nIt is the", ("first", "second")),
    ),
    Entry(
        name="others/yelp", about="Is a review of a business positive or negative?",
        citation="Zhang et al. 2015, Character-level Convolutional Networks for Text Classification",
        path="fancyzhx/yelp_polarity", config="plain_text", rows={"train": 560000, "test": 38000}, splits=TRAIN_TEST,
        labels=POLARITY, paper=Form("sentence: {text}", TWO), words=REVIEW,
    ),
    Entry(
        name="others/scitail", about="Does a sentence of the web entail an answer of a science exam?",
        citation="Khot et al. 2018, SciTail: A Textual Entailment Dataset from Science Question Answering",
        path="allenai/scitail", config="snli_format", rows={"train": 23596, "validation": 1304, "test": 2126},
        splits=PUBLISHED, label="gold_label", labels=("entailment", "neutral"),
        paper=Form("premise: {sentence1} hypothesis: {sentence2}", TWO),
        words=Form("Premise: {sentence1}\nHypothesis: {sentence2}\nIs the hypothesis true?", ("yes", "no")),
    ),
    Entry(
        name="others/paws", about="Do two sentences of swapped words say the same?",
        citation="Zhang et al. 2019, PAWS: Paraphrase Adversaries from Word Scrambling (PAWS-Wiki)",
        path="google-research-datasets/paws", config="labeled_final",
        rows={"train": 49401, "validation": 8000, "test": 8000}, splits=PUBLISHED,
        labels=("different", "paraphrase"), paper=Form(PAIR, TWO),
        words=Form("Sentence 1: {sentence1}\nSentence 2: {sentence2}\nDo they say the same?", NO_YES),
    ),
    Entry(
        name="others/snli", about="Does the caption of a picture entail a hypothesis?",
        citation="Bowman et al. 2015, A Large Annotated Corpus for Learning Natural Language Inference",
        path="stanfordnlp/snli", config="plain_text", rows={"train": 550152, "validation": 10000, "test": 10000},
        splits=PUBLISHED, labels=NLI, paper=NLI_PAPER, words=NLI_WORDS, drops_unlabelled=True,
    ),
    Entry(
        name="others/ag_news", about="Which of four sections does a news item belong to?",
        citation="Zhang et al. 2015, Character-level Convolutional Networks for Text Classification",
        path="fancyzhx/ag_news", rows={"train": 120000, "test": 7600}, splits=TRAIN_TEST,
        labels=("World", "Sports", "Business", "Sci/Tech"), paper=Form("sentence: {text}", digits(4)),
        words=Form("News: {text}\nSection:", ("world", "sports", "business", "technology")),
    ),
    Entry(
        name="others/trec", about="Which of six kinds of thing does a question ask for?",
        citation="Li and Roth 2002, Learning Question Classifiers",
        # CogComp/trec is a script, which datasets 4 refuses. This copy numbers the classes as they first occur, so it
        # is read by their names; the order is CogComp's.
        path="SetFit/TREC-QC", rows={"train": 5452, "test": 500}, splits=TRAIN_TEST,
        label="label_coarse_original", labels=("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"),
        paper=Form("sentence: {text}", digits(6)),
        words=Form(
            "Question: {text}\nIt asks for a",
            ("abbreviation", "thing", "description", "person", "place", "number"),
        ),
    ),
    Entry(
        name="others/sst5", about="How good does a sentence call a film, in five steps?",
        citation="Socher et al. 2013, Recursive Deep Models for Semantic Compositionality",
        path="SetFit/sst5", rows={"train": 8544, "validation": 1101, "test": 2210}, splits=PUBLISHED,
        labels=("very negative", "negative", "neutral", "positive", "very positive"),
        paper=Form("sentence: {text}", digits(5)),
        words=Form("Review: {text}\nThe film is", ("terrible", "bad", "okay", "good", "great")),
    ),
    Entry(
        name="others/mr", about="Is a sentence of a film review positive or negative?",
        citation="Pang and Lee 2005, Seeing Stars",
        path="cornell-movie-review-data/rotten_tomatoes", rows={"train": 8530, "validation": 1066, "test": 1066},
        splits=PUBLISHED, labels=("neg", "pos"), paper=Form("sentence: {text}", TWO), words=REVIEW,
    ),
    Entry(
        name="others/subj", about="Does a sentence tell of a film's story or of an opinion of it?",
        citation="Pang and Lee 2004, A Sentimental Education",
        path="SetFit/subj", rows={"train": 8000, "test": 2000}, splits=TRAIN_TEST,
        labels=("objective", "subjective"), paper=Form("sentence: {text}", TWO),
        words=Form("Sentence: {text}\nIs it a fact or an opinion?", ("fact", "opinion")),
    ),
    Entry(
        name="others/imdb", about="Is a whole film review positive or negative?",
        citation="Maas et al. 2011, Learning Word Vectors for Sentiment Analysis",
        path="stanfordnlp/imdb", config="plain_text", rows={"train": 25000, "test": 25000}, splits=TRAIN_TEST,
        labels=("neg", "pos"), paper=Form("sentence: {text}", TWO), words=REVIEW,
    ),
    Entry(
        name="others/anli", about="Does a premise entail a hypothesis written to fool a model? (three rounds)",
        citation="Nie et al. 2020, Adversarial NLI",
        path="facebook/anli", config="plain_text",
        rows={"train_r1": 16946, "train_r2": 45460, "train_r3": 100459, "dev_r1": 1000, "dev_r2": 1000,
              "dev_r3": 1200, "test_r1": 1000, "test_r2": 1000, "test_r3": 1200},
        splits={"train": "train_r1+train_r2+train_r3", "dev": "dev_r1+dev_r2+dev_r3",
                "test": "test_r1+test_r2+test_r3"},
        labels=NLI, paper=NLI_PAPER, words=NLI_WORDS, kin="premise",
    ),
    Entry(
        name="others/gsm8k", about="Sums of school told in words; trained on MetaMathQA, scored on the last number.",
        citation="Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems; Yu et al. 2024, MetaMath",
        path="openai/gsm8k", config="main", rows={"train": 395000, "dev": 7473, "test": 1319},
        splits={"train": "train", "dev": "dev", "test": "test"},
        elsewhere={"train": ("meta-math/MetaMathQA", None, "train"), "dev": ("openai/gsm8k", "main", "train")},
        label="answer", metrics=("number_match",), prepare=gsm8k, columns=("question", "answer"), answer_tokens=300,
        drops_unlabelled=True, version="3",
        paper=Form("Question: {question} Think step by step.\nAnswer:"),  # PEFT's default_training_params.json
        words=Form("Question: {question}\nAnswer:"),
    ),
)  # fmt: skip
