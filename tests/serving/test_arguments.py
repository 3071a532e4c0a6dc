"""The arguments of a server: from flags, the environment, a file of keys and a config file."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from softprompt.cli.app import app
from softprompt.errors import BadInput, UnknownName
from softprompt.runtime.arguments import parse_model
from softprompt.serving.arguments import ADMIN_KEYS, LOOPBACK, USE_KEYS, ServeArguments
from softprompt.serving.server import settings_of


def arguments(**more: Any) -> ServeArguments:
    return parse_model(ServeArguments, {"backbone": "smollm2-135m", "prompts": "runs", **more})


def test_keys_come_from_flags_or_the_environment_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# who may ask\nfirst\n\nadmin boss\n")
    environment = {USE_KEYS: "a,b", ADMIN_KEYS: "c"}
    assert arguments().keys({}) == ([""], [""])
    assert arguments().keys(environment) == (["a,b"], ["c"])
    assert arguments(api_key=["x"]).keys(environment) == (["x"], ["c"])
    assert arguments(key_file=file).keys({}) == (["", "first"], ["", "boss"])
    with pytest.raises(BadInput, match=r"--key-file .* cannot be read"):
        arguments(key_file=tmp_path / "none").keys({})


def test_the_host_is_checked_where_the_server_listens_at_this_machine_alone() -> None:
    assert arguments().hosts() == LOOPBACK
    assert arguments(host="0.0.0.0").hosts() == ()
    assert arguments(trusted_host=["example.org"]).hosts() == ("example.org",)


def test_arguments_become_settings() -> None:
    settings = settings_of(arguments(max_body_kb=5, wait_ms=2, cache_mb=3, cors_origin=["*"], root_path="/nlp"))
    assert (settings.limits.body, settings.batching["wait"], settings.batching["cache"]) == (5000, 0.002, 3_000_000)
    assert (settings.front.origins, settings.front.root_path) == (("*",), "/nlp")


def test_a_config_file_holds_them_and_flags_go_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ServeArguments] = []

    def stop(found: ServeArguments) -> None:
        seen.append(found)
        raise BadInput("stop here")

    monkeypatch.setattr("softprompt.serving.server.settings_of", stop)
    file = tmp_path / "serve.yaml"
    file.write_text("backbone: smollm2-135m\nprompts: runs\nmax-input-tokens: 7\nport: 9\napi_key: [a]\n")
    CliRunner().invoke(app, ["serve", "--config", str(file), "--port", "11"])
    assert (seen[0].max_input_tokens, seen[0].port, seen[0].api_key) == (7, 11, ["a"])
    file.write_text("backbone: x\nprompts: runs\nprot: 9\n")
    wrong = CliRunner().invoke(app, ["serve", "--config", str(file)]).exception
    assert isinstance(wrong, UnknownName)
    assert "Did you mean 'port'" in str(wrong)
    file.write_text("- a\n")
    assert "expected keys like backbone" in str(CliRunner().invoke(app, ["serve", "--config", str(file)]).exception)


def test_tls_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="go together"):
        arguments(tls_cert=tmp_path / "cert").check_tls()
    with pytest.raises(BadInput, match=r"--tls-cert .* is not a file"):
        arguments(tls_cert=tmp_path / "cert", tls_key=tmp_path / "key").check_tls()
