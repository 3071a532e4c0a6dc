"""Where a prompt starts, in the space that the backbone reads."""

import pytest
import torch
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.errors import BadInput
from softprompt.methods.initialization import (
    Vocabulary,
    from_labels,
    from_noise,
    from_text,
    from_vocabulary,
    sample_ids,
)
from tests import tiny
from tests.compare import assert_close

FAMILIES = ["llama", "gemma3"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def called(backbone: Backbone, ids: list[int]) -> Tensor:
    """Rows for `ids` as the model itself looks them up."""
    table = tiny.model(backbone.name.removeprefix("tiny-")).get_input_embeddings()  # type: ignore[operator]
    with torch.no_grad():
        rows: Tensor = table(torch.tensor(ids))
        return rows


def read_back(backbone: Backbone, rows: Tensor) -> list[int]:
    """The token of each row; fails for a row that is not bit for bit one token's."""
    same = (rows.unsqueeze(1) == called(backbone, list(range(backbone.v)))).all(-1)  # (n, v)
    assert same.sum(1).tolist() == [1] * len(rows)
    return same.int().argmax(1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_is_the_vocabulary_that_a_start_needs(family: str) -> None:
    assert isinstance(tiny.backbone(family), Vocabulary)


# Noise


@pytest.mark.parametrize("scale", [0.5, 0.01, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_noise_fills_its_range_and_stays_in_it(family: str, scale: float) -> None:
    rows = from_noise(200, tiny.backbone(family), seeded(), scale)
    assert rows.shape == (200, tiny.D)
    assert rows.dtype == torch.float32
    assert -scale <= float(rows.min()) < -0.95 * scale
    assert 0.95 * scale < float(rows.max()) <= scale
    assert abs(float(rows.mean())) < 0.1 * scale


def test_noise_is_within_one_half_unless_told() -> None:
    backbone = tiny.backbone("llama")
    assert torch.equal(from_noise(9, backbone, seeded()), from_noise(9, backbone, seeded(), 0.5))


# Vocabulary


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_start_is_different_tokens_as_the_network_reads_them(family: str) -> None:
    backbone = tiny.backbone(family)
    rows = from_vocabulary(12, backbone, seeded())
    assert rows.shape == (12, tiny.D)
    assert len(set(read_back(backbone, rows))) == 12


def test_a_table_that_scales_starts_from_scaled_rows() -> None:
    backbone = tiny.backbone("gemma3")
    rows = from_vocabulary(12, backbone, seeded())
    weight = backbone.embedding.weight[read_back(backbone, rows)]
    assert_close(rows, weight * tiny.D**0.5)
    with pytest.raises(AssertionError, match="largest difference"):
        assert_close(rows, weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_start_takes_all_of_its_pool_and_nothing_else(family: str) -> None:
    backbone = tiny.backbone(family)
    ids = read_back(backbone, from_vocabulary(7, backbone, seeded(), pool=7))
    assert sorted(ids) == backbone.ordinary_ids()[:7]


@pytest.mark.parametrize("pool", [None, 5000])
def test_a_pool_as_large_as_the_vocabulary_is_all_of_it_without_special_tokens_and_unused_rows(
    pool: int | None,
) -> None:
    backbone = tiny.backbone("llama")
    words = len(tiny.tokenizer())
    assert words < tiny.V
    ids = sample_ids(words - 3, backbone, seeded(), pool)
    assert sorted(ids) == [i for i in range(words) if i not in (tiny.PAD, tiny.EOS, tiny.UNK)]


def test_the_order_of_a_sample_is_drawn_too() -> None:
    backbone = tiny.backbone("llama")
    firsts = {sample_ids(5, backbone, seeded(seed), pool=5)[0] for seed in range(30)}
    assert len(firsts) == 5


@pytest.mark.parametrize("start", [from_noise, from_vocabulary])
def test_the_same_seed_gives_the_same_start_and_another_another(start: object) -> None:
    backbone = tiny.backbone("llama")
    one, same, other = (start(8, backbone, seeded(seed)) for seed in (1, 1, 2))  # type: ignore[operator]
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("count", "pool"), [(8, 7), (1000, None), (1000, 5000)])
def test_more_different_tokens_than_there_are_is_refused(count: int, pool: int | None) -> None:
    backbone = tiny.backbone("llama")
    there = len(backbone.ordinary_ids()[:pool])
    with pytest.raises(BadInput, match=f"{count} different tokens were asked of a pool of {there}"):
        from_vocabulary(count, backbone, seeded(), pool)


# Text


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("family", [*FAMILIES, "t5"])
def test_a_text_is_repeated_or_cut_without_special_tokens_in_between(family: str, length: int) -> None:
    backbone = tiny.backbone(family)
    red, green, blue = (tiny.tokenizer().convert_tokens_to_ids(word) for word in ("red", "green", "blue"))
    rows = from_text(length, backbone, "red green blue")
    assert torch.equal(rows, called(backbone, [red, green, blue, red, green, blue, red, green][:length]))


@pytest.mark.parametrize("text", ["", "   ", "\n"])
@pytest.mark.parametrize("family", [*FAMILIES, "t5"])
def test_a_text_without_tokens_is_refused(family: str, text: str) -> None:
    with pytest.raises(BadInput, match="gives no tokens"):
        from_text(4, tiny.backbone(family), text)


# Labels


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_give_their_means_first_and_then_different_tokens(family: str) -> None:
    backbone = tiny.backbone(family)
    labels = ["good", "not very bad"]
    rows = from_labels(6, backbone, labels, seeded())
    assert rows.shape == (6, tiny.D)
    for row, label in zip(rows, labels, strict=False):
        ids = tiny.tokenizer().convert_tokens_to_ids(label.split())
        assert_close(row, called(backbone, ids).mean(0))
    assert len(set(read_back(backbone, rows[2:]))) == 4


@pytest.mark.parametrize("length", [1, 2])
def test_more_labels_than_rows_give_the_first_ones_only(length: int) -> None:
    backbone = tiny.backbone("llama")
    rows = from_labels(length, backbone, ["red", "green", "blue"], seeded())
    assert_close(rows, torch.cat([from_text(1, backbone, label) for label in ("red", "green", "blue")[:length]]))


def test_a_label_without_tokens_is_passed_over() -> None:
    backbone = tiny.backbone("llama")
    rows = from_labels(3, backbone, ["", "red"], seeded())
    assert rows.shape == (3, tiny.D)
    assert_close(rows[:1], from_text(1, backbone, "red"))


@pytest.mark.parametrize("labels", [[], ["", " "]])
def test_a_start_from_labels_without_labels_is_refused(labels: list[str]) -> None:
    with pytest.raises(BadInput, match="needs label words"):
        from_labels(4, tiny.backbone("llama"), labels, seeded())
