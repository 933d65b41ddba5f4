"""Sends spans with the stock OpenTelemetry SDK: PROTOCOL SERVICE COUNT ATTRIBUTES."""

import sys

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

protocol, service, count, more = sys.argv[1:5]
if protocol == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint="http://203.0.113.9:4317", insecure=True, timeout=60)
else:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint="http://203.0.113.9:4318/v1/traces", timeout=60)
attributes = dict(pair.split("=") for pair in more.split(",") if pair)
provider = TracerProvider(resource=Resource({"service.name": service, **attributes}))
provider.add_span_processor(BatchSpanProcessor(exporter))
tracer = provider.get_tracer("test")
for number in range(int(count)):
    with tracer.start_as_current_span(f"span {number}"):
        pass
provider.shutdown()
