"""The shop's front: takes an order and asks the pricing service for it.

Nothing here knows of telemetry: `opentelemetry-instrument` and the OTEL_* variables do all of it. An order
is answered with the status that the pricing service gave.
"""

import logging
import os
import signal
import sys

import requests
from flask import Flask

app = Flask(__name__)
log = logging.getLogger("front")


@app.get("/order/<article>/<int:number>")
def order(article, number):
    answer = requests.get(f"{os.environ['PRICE_URL']}/price/{article}/{number}", timeout=60)
    log.info("ordered %s/%d", article, number, extra={"status": answer.status_code})
    return answer.text, answer.status_code


@app.get("/ready")
def ready():
    return "", 204


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.INFO)
    # An orderly end runs the exporters' last flush.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app.run(port=int(os.environ["PORT"]), threaded=True)
