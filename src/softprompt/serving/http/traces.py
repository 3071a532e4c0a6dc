"""OpenTelemetry traces of requests (https://opentelemetry.io/docs/languages/python), sent as its variables say."""

from fastapi import FastAPI
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

UNTRACED = "healthz,readyz,metrics"


def trace(app: FastAPI, exporter: SpanExporter | None = None) -> TracerProvider:
    """Trace the requests of an application; spans go to OTEL_EXPORTER_OTLP_ENDPOINT where no exporter is given."""
    provider = TracerProvider(resource=Resource.create({"service.name": "softprompt"}))
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls=UNTRACED)
    return provider
