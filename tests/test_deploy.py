"""What deploy/ holds fits the server: its metrics are there, its arguments exist, its files parse."""

import json
import re
import shlex
from pathlib import Path

import yaml
from typer.testing import CliRunner

from softprompt.cli.app import app
from softprompt.cli.serve import _read_config
from softprompt.runtime.arguments import parse_model
from softprompt.serving.arguments import ServeArguments
from softprompt.serving.http.metrics import Metrics
from tests.served import tiny_app

DEPLOY = Path(__file__).parents[1] / "deploy"


def test_every_metric_of_the_dashboard_is_served(tmp_path: Path) -> None:
    metrics = Metrics(per_prompt=3)
    tiny_app(tmp_path, metrics=metrics)
    served = metrics.text().decode()
    names = set(re.findall(r"# TYPE (\S+)", served))
    panels = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
    asked = {
        name for panel in panels for one in panel["targets"] for name in re.findall(r"softprompt_\w+", one["expr"])
    }
    assert len(asked) > 10
    for name in asked:
        assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & names, name


def test_the_config_and_the_units_command_are_ones_that_serve_takes() -> None:
    found = parse_model(ServeArguments, _read_config(DEPLOY / "serve.yaml"))
    assert (found.host, found.metrics_per_prompt) == ("0.0.0.0", 50)
    every = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    unit = (DEPLOY / "softprompt.service").read_text()
    docker = json.loads(re.findall(r"^ENTRYPOINT (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[0])
    for command in (shlex.split(re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0]), docker):
        assert [Path(command[0]).name, command[1]] == ["softprompt", "serve"]
        assert all(flag in every for flag in command if flag.startswith("--"))


def test_compose_names_files_that_are_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mounted = [one.split(":")[0] for service in services.values() for one in service.get("volumes", ())]
    assert all((DEPLOY / path).is_file() for path in mounted if path.startswith("./"))
    for path in ("prometheus.yml", "grafana/datasource.yaml", "grafana/provider.yaml"):
        assert yaml.safe_load((DEPLOY / path).read_text())
