"use strict";
// The live page: asks the JSON API every two seconds and draws what it says. Text from telemetry only ever
// becomes text nodes, so that a span name cannot become markup.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return node;
}

function drawing(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits }));
const duration = (ms) => (ms === null || ms === undefined ? "–" : ms >= 1000 ? `${number(ms / 1000, 2)} s` : ms >= 1 ? `${number(ms)} ms` : `${number(ms * 1000, 0)} µs`);
const clock = (nanos) => new Date(Number(BigInt(nanos) / 1000000n)).toLocaleTimeString();

function table(target, columns, rows, empty, open) {
  if (rows.length === 0) return target.replaceChildren(element("p", { class: "empty" }, empty));
  const head = element("tr", {}, ...columns.map(([title, , kind]) => element("th", { class: kind || "" }, title)));
  const body = rows.map((row) => {
    const line = element("tr", open ? { class: "link", tabindex: "0" } : {}, ...columns.map(([, cell, kind]) => {
      const value = cell(row);
      return element("td", { class: kind || "", ...(kind === "name" ? { title: String(value) } : {}) }, value);
    }));
    if (open) {
      line.addEventListener("click", () => open(row));
      line.addEventListener("keydown", (event) => { if (event.key === "Enter") open(row); });
    }
    return line;
  });
  target.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

const share = (part, all) => element("span", { class: part > 0 ? (part / all > 0.05 ? "bad" : "warn") : "soft" }, part > 0 ? `${number((100 * part) / all, 2)} %` : "0 %");

function drawRed(rows) {
  table($("red"), [
    ["Service", (row) => row.service, "name"], ["Span", (row) => row.span, "name"], ["Kind", (row) => row.kind, "word"],
    ["Calls/s", (row) => number(row.rate, 2), "number"], ["Errors", (row) => share(row.errors, row.calls), "number"],
    ["p50", (row) => duration(row.p50_ms), "number"], ["p95", (row) => duration(row.p95_ms), "number"], ["p99", (row) => duration(row.p99_ms), "number"],
  ], rows.filter((row) => row.calls > 0).slice(0, 200), "No span has been counted in this range. Point OTEL_EXPORTER_OTLP_ENDPOINT at the agent.");
}

function drawEdges(rows) {
  table($("edges"), [
    ["Client", (row) => row.client, "name"], ["Server", (row) => row.server, "name"], ["Type", (row) => row.connection_type || "request", "word"],
    ["Calls/s", (row) => number(row.rate, 2), "number"], ["Failed", (row) => share(row.failed, row.calls), "number"], ["p95", (row) => duration(row.p95_ms), "number"],
  ], rows, "No edge yet: an edge needs spans of both sides.");
}

// Columns by distance from the callers that nobody calls; a cycle keeps the first distance found.
function layers(edges) {
  const nodes = new Map();
  for (const edge of edges) for (const name of [edge.client, edge.server]) nodes.set(name, 0);
  const called = new Set(edges.map((edge) => edge.server));
  let front = [...nodes.keys()].filter((name) => !called.has(name));
  if (front.length === 0) front = [...nodes.keys()].slice(0, 1);
  const seen = new Set(front);
  for (let depth = 1; front.length > 0; depth += 1) {
    const next = new Set();
    for (const edge of edges) if (front.includes(edge.client) && !seen.has(edge.server)) { nodes.set(edge.server, depth); next.add(edge.server); }
    next.forEach((name) => seen.add(name));
    front = [...next];
  }
  return nodes;
}

function drawMap(edges) {
  const target = $("map");
  if (edges.length === 0) return target.replaceChildren(element("p", { class: "empty" }, "The map appears with the first edge."));
  const depth = layers(edges);
  const columns = [];
  for (const [name, layer] of depth) (columns[layer] ||= []).push(name);
  const width = 1000, height = 380, place = new Map();
  columns.forEach((names, layer) => names.sort().forEach((name, row) => place.set(name, {
    x: 80 + (layer * (width - 160)) / Math.max(1, columns.length - 1), y: ((row + 1) * height) / (names.length + 1),
  })));
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Service map" });
  const marker = drawing("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" });
  marker.append(drawing("path", { d: "M0,0 L8,4 L0,8 z" }));
  const defs = drawing("defs", {});
  defs.append(marker);
  svg.append(defs);
  const most = Math.max(...edges.map((edge) => edge.rate), 0.001), failing = new Set(), virtual = new Set();
  for (const edge of edges) {
    const from = place.get(edge.client), to = place.get(edge.server);
    const bad = edge.failed / Math.max(edge.calls, 1) > 0.05;
    if (bad) failing.add(edge.server);
    if (edge.connection_type === "virtual_node") (edge.client === "user" ? virtual.add(edge.client) : virtual.add(edge.server));
    if (edge.connection_type === "database") virtual.add(edge.server);
    const bend = from.x >= to.x ? 60 : 0, midX = (from.x + to.x) / 2, midY = (from.y + to.y) / 2 - bend;
    const path = `M${from.x + 62},${from.y} Q${midX},${midY} ${to.x - 62},${to.y}`;
    svg.append(drawing("path", { d: path, class: bad ? "edge failing" : "edge", "stroke-width": 1 + (3 * edge.rate) / most, "marker-end": "url(#arrow)" }));
    svg.append(drawing("text", { x: midX, y: midY - 5, class: "rate", "text-anchor": "middle" }, `${number(edge.rate, 1)}/s`));
  }
  for (const [name, { x, y }] of place) {
    svg.append(drawing("rect", { x: x - 62, y: y - 15, width: 124, height: 30, rx: 6, class: `node${failing.has(name) ? " failing" : ""}${virtual.has(name) ? " virtual" : ""}` }));
    svg.append(drawing("text", { x, y: y + 4, "text-anchor": "middle" }, name.length > 17 ? `${name.slice(0, 16)}…` : name));
  }
  target.replaceChildren(svg);
}

const why = (episode) => episode ? [element("div", {}, `${episode.kind}: ${episode.reason}`),
  ...(episode.incident ? [element("div", { class: "labels" }, `incident ${episode.incident.id}, ${episode.incident.series} series, led by ${episode.incident.lead}`)] : [])] : [];

// What is flagged is an anomaly. The highest scores besides stand apart, under a heading that says so.
function drawAnomalies(rows) {
  const columns = [
    ["Score", (row) => element("span", { class: row.flagged ? "score bad" : "score" }, number(row.score, 2)), "number"],
    ["Peak", (row) => number(row.peak, 2), "number"],
    ["Series", (row) => element("span", {}, row.metric, " ", element("span", { class: "labels" }, Object.entries(row.labels).map(([name, value]) => `${name}=${value}`).join(" ")), ...why(row.episode))],
  ];
  const flagged = rows.filter((row) => row.flagged), others = rows.filter((row) => !row.flagged).slice(0, 20);
  table($("flagged"), columns, flagged.slice(0, 100), rows.length > 0 ? "No series was flagged in this range." : "Nothing is scored yet: a series needs some history first.");
  $("told").textContent = flagged.length > 0 ? `${flagged.length}${flagged.length === 1000 ? " or more" : ""} series were flagged in this range${flagged.length > 100 ? ", here the first 100" : ""}, the highest peak first. The score is the latest.` : "";
  $("h-unflagged").hidden = others.length === 0;
  if (others.length > 0) table($("unflagged"), columns, others, "");
  else $("unflagged").replaceChildren();
}

function drawTraces(rows) {
  const longest = Math.max(...rows.map((row) => row.duration_ms), 0.001);
  table($("traces"), [
    ["Started", (row) => clock(row.start_unix_nano), "time"], ["Root", (row) => `${row.root_service} ${row.root_span}`, "name"],
    ["Spans", (row) => row.spans, "number"], ["Errors", (row) => element("span", { class: row.errors ? "bad" : "soft" }, row.errors), "number"],
    ["Duration", (row) => duration(row.duration_ms), "number"],
    ["", (row) => bar(0, row.duration_ms / longest, row.errors > 0, "120px")],
  ], rows, "No trace in this range.", openTrace);
}

function bar(offset, length, failed, width) {
  const lane = drawing("svg", { viewBox: "0 0 100 9", preserveAspectRatio: "none", width, height: 9, class: "lane-bar" });
  lane.style.width = width; lane.style.height = "9px";
  lane.append(drawing("rect", { x: 100 * offset, y: 0, width: Math.max(100 * length, 0.6), height: 9, fill: failed ? "var(--bad)" : "var(--accent)" }));
  return lane;
}

async function openTrace(row) {
  const spans = await ask(`/api/v1/traces/${row.trace_id}`);
  const start = BigInt(spans[0].start_unix_nano), total = Math.max(...spans.map((span) => Number(BigInt(span.start_unix_nano) - start) / 1e6 + span.duration_ms), 0.001);
  const children = new Map(), known = new Set(spans.map((span) => span.span_id));
  for (const span of spans) { const parent = known.has(span.parent_span_id) ? span.parent_span_id : ""; (children.get(parent) || children.set(parent, []).get(parent)).push(span); }
  const ordered = [];
  const visit = (id, depth) => (children.get(id) || []).forEach((span) => { ordered.push([span, depth]); if (span.span_id && depth < 200) visit(span.span_id, depth + 1); });
  visit("", 0);
  table($("spans"), [
    ["Span", ([span, depth]) => `${"\u2003".repeat(Math.min(depth, 20))}${span.service} · ${span.name}`, "name"],
    ["", ([span]) => bar(Number(BigInt(span.start_unix_nano) - start) / 1e6 / total, span.duration_ms / total, span.status === 2, "340px")],
    ["Duration", ([span]) => duration(span.duration_ms), "number"],
    ["Attributes", ([span]) => element("span", { class: "labels" }, Object.entries(span.attributes).map(([name, value]) => `${name}=${value}`).join(" "))],
  ], ordered, "This trace has no spans.");
  $("spans").prepend(element("h2", {}, `Trace ${row.trace_id}`));
  $("trace").showModal();
}

function drawLogs(rows) {
  table($("logs"), [
    ["Time", (row) => clock(row.time_unix_nano), "time"], ["Service", (row) => row.service, "name"],
    ["Severity", (row) => element("span", { class: row.severity >= 17 ? "bad" : row.severity >= 13 ? "warn" : "soft" }, row.severity_text || row.severity)],
    ["Body", (row) => row.body],
  ], rows, "No log record in this range.");
}

async function ask(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body;
}

async function refresh() {
  const since = `since=${$("since").value}`;
  try {
    const [red, edges, anomalies, traces, logs] = await Promise.all([
      ask(`/api/v1/red?${since}`), ask(`/api/v1/graph?${since}`), ask(`/api/v1/anomalies?${since}&limit=1000`),
      ask(`/api/v1/traces?${since}&limit=30&errors=${$("only-errors").checked}`), ask(`/api/v1/logs?${since}&limit=60`),
    ]);
    drawMap(edges); drawAnomalies(anomalies); drawRed(red); drawEdges(edges); drawTraces(traces); drawLogs(logs);
    $("state").textContent = `live, ${new Date().toLocaleTimeString()}`; $("state").className = "live";
  } catch (error) {
    $("state").textContent = `no answer: ${error.message}`; $("state").className = "lost";
  }
}

async function loop() {
  await refresh();
  setTimeout(loop, 2000);
}

$("since").addEventListener("change", refresh);
$("only-errors").addEventListener("change", refresh);
loop();
