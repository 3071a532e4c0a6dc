"""The arguments of `softprompt serve`, each declared once: flag, config file, help and bounds."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from softprompt.errors import BadInput
from softprompt.runtime.arguments import Flag

USE_KEYS, ADMIN_KEYS = "SOFTPROMPT_API_KEY", "SOFTPROMPT_ADMIN_KEY"
"""Environment variables of keys, where no flag gives any: flags show in a list of processes."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Repeated = Annotated[list[str], Flag(repeatable=True)]


class Limited(BaseModel):
    """How much one request, and one caller, may take."""

    heading: ClassVar[str] = "Limits"

    max_input_tokens: int = Field(4096, ge=1, description="Maximum tokens per input text.")
    max_output_tokens: int = Field(1024, ge=1, description="Maximum tokens per answer.")
    max_body_kb: int = Field(1000, ge=1, description="Maximum request body in kB.")
    max_prompt_mb: int = Field(64, ge=1, description="Maximum uploaded prompt in MB.")
    max_concurrent: int = Field(
        64, ge=1, description="Requests in progress per key or, without keys, per address; more wait."
    )
    read_timeout: float = Field(
        30.0, ge=0.1, description="Seconds within which headers, and then the body, must arrive."
    )
    queue: int = Field(1024, ge=1, description="Maximum texts that wait; more are refused (429).")


class Batched(BaseModel):
    """How much is computed at a time, and kept."""

    heading: ClassVar[str] = "Batching and memory"

    batch_rows: int | None = Field(None, ge=1, description="Maximum generations in a batch: 32 on a CPU, else 128.")
    batch_tokens: int | None = Field(
        None, ge=64, description="Maximum tokens of the generations in a batch: 8192 on a CPU, else 131072."
    )
    pass_tokens: int | None = Field(
        None, ge=64, description="Maximum tokens read in one pass: 2048 on a CPU, else 32768."
    )
    wait_ms: float = Field(4.0, ge=0, description="Milliseconds that the first request of a batch waits for others.")
    cache_mb: int = Field(1000, ge=0, description="Memory for the prompts' keys and values, in MB.")
    memory_mb: int = Field(1000, ge=1, description="Memory for the prompts' tensors, in MB.")
    preload: Repeated = Field([], description="Prompt to load before requests are taken, repeatable; all: every one.")


class Reached(BaseModel):
    """Where the server is, and who may ask it."""

    heading: ClassVar[str] = "Address and keys"

    host: str = Field("127.0.0.1", description="Address to listen at; 0.0.0.0: all of this machine's.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen at; 0: any free one.")
    api_key: Repeated = Field([], description=f"Key that clients must send; repeatable. Or {USE_KEYS}.")
    admin_key: Repeated = Field(
        [], description=f"Key that may also upload and delete prompts; without one, no client may. Or {ADMIN_KEYS}."
    )
    key_file: Path | None = Field(
        None, description="File of keys, one a line; a line that begins with 'admin ' holds an admin key."
    )
    trusted_host: Repeated = Field(
        [],
        description="Name or address that requests may be for (the Host header), repeatable; default: any, but this "
        "machine's own where it listens at those alone.",
    )
    cors_origin: Repeated = Field(
        [], description="Origin whose pages may ask (https://example.org), repeatable; *: any."
    )
    root_path: str = Field("", description="Path under which a proxy serves it, stripped or not.")
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM), to serve https.")
    tls_key: Path | None = Field(None, description="Private key (PEM) of --tls-cert.")


class Reported(BaseModel):
    """What is written about requests."""

    heading: ClassVar[str] = "Observing"

    access_log: str | None = Field(None, description="File for a line of JSON a request; -: stderr.")
    metrics_per_prompt: int = Field(
        0,
        ge=0,
        le=1000,
        description="Prompts that /metrics counts by name; the others together. /metrics needs no key.",
    )
    otel: bool = Field(False, description="Send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT (extra: otel).")


class ServeArguments(Reached, Limited, Batched, Reported):
    """Arguments of a server."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    heading: ClassVar[str] = "What is served"

    backbone: str = Field(description="Frozen model: smollm2-135m, a folder, or a hub id.")
    prompts: Path = Field(description="Folder of run folders, or of one run; a run folder's name is its prompt's.")
    dtype: str = Field(
        "auto", description="Data type of the frozen model: float32, bfloat16, float16, or auto (bfloat16 where fast)."
    )
    device: str | None = Field(None, description="Device: cpu, cuda, mps, ...; the best there is when not given.")
    grace: float = Field(30.0, ge=0, description="Seconds to finish what runs at SIGTERM or Ctrl-C.")

    def hosts(self) -> tuple[str, ...]:
        """List the names and addresses that it may be asked for by; none: any."""
        return tuple(self.trusted_host or (LOOPBACK if self.host in LOOPBACK else ()))

    def keys(self, environment: Mapping[str, str] = os.environ) -> tuple[list[str], list[str]]:
        """Read the keys for use and the admin keys: from flags, else from the environment, and from the file."""
        use = list(self.api_key) or [environment.get(USE_KEYS, "")]
        change = list(self.admin_key) or [environment.get(ADMIN_KEYS, "")]
        if self.key_file is not None:
            try:
                lines = self.key_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise BadInput(f"--key-file {self.key_file} cannot be read: {error}.") from None
            for line in (line.strip() for line in lines):
                if line and not line.startswith("#"):
                    is_admin = line.startswith("admin ")
                    (change if is_admin else use).append(line.removeprefix("admin "))
        return use, change

    def check_tls(self) -> None:
        """Raise BadInput for one of --tls-cert and --tls-key without the other, or a file that is not there."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise BadInput("--tls-cert and --tls-key go together; give both.")
        for flag, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if path is not None and not path.is_file():
                raise BadInput(f"{flag} {path} is not a file; expected one in PEM form.")
