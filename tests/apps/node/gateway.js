// The shop's gateway: passes an order on to the front service.
//
// Nothing here knows of telemetry: the registration of OpenTelemetry's auto-instrumentation and the OTEL_* variables
// do all of it. An order is answered with the status that the front service gave.
"use strict";

const http = require("node:http");
const pino = require("pino");

const log = pino();

const server = http.createServer((request, answer) => {
  const order = request.url.replace("/order/", "");
  http
    .get(process.env.FRONT_URL + request.url, (front) => {
      log.info({ status: front.statusCode }, `forwarded ${order}`);
      answer.writeHead(front.statusCode);
      front.pipe(answer);
    })
    .on("error", (error) => {
      log.error({ err: error }, `front failed ${order}`);
      answer.writeHead(502).end();
    });
});

server.listen(Number(process.env.PORT), "127.0.0.1");

// An orderly end: once nobody is served, nothing keeps the process but the last flush of the exporters.
process.on("SIGTERM", () => {
  server.close();
  server.closeAllConnections();
});
