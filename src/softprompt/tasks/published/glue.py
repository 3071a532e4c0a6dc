"""GLUE (Wang et al. 2019, https://arxiv.org/abs/1804.07461). Its test labels are hidden: test is validation."""

from softprompt.tasks.published.entry import UNLABELLED, Entry, Form, Prepared, Values, digits

HUB = "nyu-mll/glue"
TWO = digits(2)
NO_YES, YES_NO = ("no", "yes"), ("yes", "no")
PAIR = "sentence1: {sentence1} sentence2: {sentence2}"
NLI = ("entailment", "neutral", "contradiction")
NLI_PAPER = Form("premise: {premise} hypothesis: {hypothesis}", digits(3))
NLI_WORDS = Form(
    "Premise: {premise}\nHypothesis: {hypothesis}\nIs the hypothesis true, false or neither?",
    ("true", "neither", "false"),
)


def stsb(values: Values) -> Prepared:
    """Round the score, 0 to 5, to 0.2 for the target (T5, Raffel et al. 2020); the score itself is the reference."""
    if values["label"] in UNLABELLED:
        return Prepared(values, "")
    try:
        score = float(values["label"])
    except ValueError:
        score = -1
    if not 0 <= score <= 5:
        raise ValueError(f"the score {values['label']!r} (column 'label') is not a number from 0 to 5")
    return Prepared(values, f"{round(score * 5) / 5:.1f}", (values["label"],))


ENTRIES = (
    Entry(
        name="glue/cola", about="Is a sentence acceptable English?",
        citation="Warstadt et al. 2019, Neural Network Acceptability Judgments",
        path=HUB, config="cola", rows={"train": 8551, "validation": 1043, "test": 1063},
        labels=("unacceptable", "acceptable"), metrics=("matthews", "accuracy"),
        paper=Form("sentence: {sentence}", TWO),
        words=Form("Sentence: {sentence}\nIs this sentence grammatical?", NO_YES),
    ),
    Entry(
        name="glue/sst2", about="Is a phrase of a film review positive or negative?",
        citation="Socher et al. 2013, Recursive Deep Models for Semantic Compositionality",
        path=HUB, config="sst2", rows={"train": 67349, "validation": 872, "test": 1821},
        labels=("negative", "positive"),
        paper=Form("sentence: {sentence}", TWO),
        words=Form("Review: {sentence}\nSentiment:", ("negative", "positive")),
    ),
    Entry(
        name="glue/mrpc", about="Do two sentences of news say the same?",
        citation="Dolan and Brockett 2005, Automatically Constructing a Corpus of Sentential Paraphrases",
        path=HUB, config="mrpc", rows={"train": 3668, "validation": 408, "test": 1725},
        labels=("not_equivalent", "equivalent"), metrics=("accuracy", "f1"),
        paper=Form(PAIR, TWO),
        words=Form("Sentence 1: {sentence1}\nSentence 2: {sentence2}\nDo they say the same?", NO_YES),
    ),
    Entry(
        name="glue/qqp", about="Do two questions of Quora ask the same?",
        citation="Iyer et al. 2017, First Quora Dataset Release: Question Pairs",
        path=HUB, config="qqp", rows={"train": 363846, "validation": 40430, "test": 390965},
        labels=("not_duplicate", "duplicate"), metrics=("accuracy", "f1"),
        paper=Form("question1: {question1} question2: {question2}", TWO),
        words=Form("Question 1: {question1}\nQuestion 2: {question2}\nDo they ask the same?", NO_YES),
    ),
    Entry(
        name="glue/stsb", about="How alike are two sentences, from 0 to 5?",
        citation="Cer et al. 2017, SemEval-2017 Task 1",
        path=HUB, config="stsb", rows={"train": 5749, "validation": 1500, "test": 1379},
        metrics=("pearson", "spearman", "numeric"),
        prepare=stsb, columns=("sentence1", "sentence2", "label"),
        paper=Form(PAIR),
        words=Form("Sentence 1: {sentence1}\nSentence 2: {sentence2}\nSimilarity from 0.0 to 5.0:"),
    ),
    Entry(
        name="glue/mnli", about="Does a premise entail a hypothesis? (genres of the training data)",
        citation="Williams et al. 2018, A Broad-Coverage Challenge Corpus for Sentence Understanding",
        path=HUB, config="mnli", rows={"train": 392702, "validation_matched": 9815, "test_matched": 9796},
        splits={"train": "train", "test": "validation_matched"},
        labels=NLI, paper=NLI_PAPER, words=NLI_WORDS,
    ),
    Entry(
        name="glue/mnli_mismatched", about="Does a premise entail a hypothesis? (genres not trained on)",
        citation="Williams et al. 2018, A Broad-Coverage Challenge Corpus for Sentence Understanding",
        path=HUB, config="mnli", rows={"train": 392702, "validation_mismatched": 9832, "test_mismatched": 9847},
        splits={"train": "train", "test": "validation_mismatched"},
        labels=NLI, paper=NLI_PAPER, words=NLI_WORDS,
    ),
    Entry(
        name="glue/qnli", about="Does a sentence hold the answer to a question?",
        citation="Wang et al. 2019 from Rajpurkar et al. 2016, SQuAD",
        path=HUB, config="qnli", rows={"train": 104743, "validation": 5463, "test": 5463},
        labels=("entailment", "not_entailment"),
        paper=Form("question: {question} sentence: {sentence}", TWO),
        words=Form("Question: {question}\nSentence: {sentence}\nDoes the sentence answer the question?", YES_NO),
    ),
    Entry(
        name="glue/rte", about="Does a text entail a hypothesis?",
        citation="Dagan et al. 2006, The PASCAL Recognising Textual Entailment Challenge (RTE 1, 2, 3, 5)",
        path=HUB, config="rte", rows={"train": 2490, "validation": 277, "test": 3000},
        labels=("entailment", "not_entailment"),
        paper=Form(PAIR, TWO),
        words=Form("Premise: {sentence1}\nHypothesis: {sentence2}\nIs the hypothesis true?", YES_NO),
    ),
    Entry(
        name="glue/wnli", about="Does a sentence with a pronoun filled in follow? (an adversarial validation set)",
        citation="Levesque et al. 2012, The Winograd Schema Challenge",
        path=HUB, config="wnli", rows={"train": 635, "validation": 71, "test": 146},
        labels=("not_entailment", "entailment"),
        paper=Form(PAIR, TWO),
        words=Form("Text: {sentence1}\nClaim: {sentence2}\nIs the claim true?", NO_YES),
    ),
)  # fmt: skip
