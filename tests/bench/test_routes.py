"""The routes that benchmarks time compute the same step."""

from pathlib import Path

import pytest
from bench.routes import Case, ours

from tests import tiny
from tests.compare import assert_close


@pytest.mark.parametrize(("family", "method"), [("llama", "prompt_tuning"), ("t5", "dept")])
def test_our_route_and_the_plain_one_agree(family: str, method: str, tmp_path: Path) -> None:
    options = (("length", 2), ("rank", 2)) if method == "dept" else ()
    case = Case("tiny", tiny.save_tiny(family, tmp_path / family), 3, 8, 2, batch=3, method=method, options=options)
    fast, plain = (ours(case, "float32", 2, plain=plain)[0] for plain in (False, True))
    for i in range(2):
        (loss, grads), (expected, slopes) = fast(i), plain(i)
        assert_close(loss, expected, 1e-5)
        for one, other in zip(grads, slopes, strict=True):
            assert_close(one, other, 1e-4)
