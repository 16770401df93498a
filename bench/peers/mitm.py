"""mitmproxy add-on: one header injected, bodies streamed."""

import os


def requestheaders(flow):
    flow.request.headers["x-api-key"] = os.environ["BENCH_KEY"]
    flow.request.stream = True


def responseheaders(flow):
    flow.response.stream = True
