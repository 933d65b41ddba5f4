"""The shop's stock: looks an article up in a database.

Nothing here knows of telemetry. `fine` is in stock, `broken` breaks the query, anything else is unknown.
"""

import logging
import os
import signal
import sqlite3
import sys

from flask import Flask

app = Flask(__name__)
log = logging.getLogger("stock")
DATABASE = "stock.sqlite"


@app.get("/stock/<article>/<int:number>")
def stock(article, number):
    table = "nowhere" if article == "broken" else "articles"
    connection = sqlite3.connect(DATABASE, timeout=60)
    try:
        cursor = connection.cursor()
        cursor.execute(f"SELECT price FROM {table} WHERE name = ?", (article,))
        row = cursor.fetchone()
    except sqlite3.Error:
        log.exception("no stock %s/%d", article, number)
        raise
    finally:
        connection.close()
    log.info("looked up %s/%d", article, number)
    return (str(row[0]), 200) if row else ("unknown article", 404)


@app.get("/ready")
def ready():
    return "", 204


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.INFO)
    # A script is not instrumented by the database's instrumentation: only what orders ask is counted.
    connection = sqlite3.connect(DATABASE)
    connection.executescript("CREATE TABLE articles (name TEXT, price INTEGER); INSERT INTO articles VALUES ('fine', 7);")
    connection.close()
    # An orderly end runs the exporters' last flush.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app.run(port=int(os.environ["PORT"]), threaded=True)
