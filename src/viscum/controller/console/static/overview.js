// Every service in one table; on a narrow screen each becomes a card.

import { attr, h, heading, list, pill, text } from "./dom.js";
import { bytes, cores, count, delay, plural, rate } from "./format.js";
import * as model from "./model.js";
import { strip } from "./signals.js";
import { spark } from "./spark.js";
import { state } from "./state.js";

const STATES = ["dead", "not listening", "removing", "draining", "running", "stopped"];
const status = (s) => model.status(s.raw);

const latency = ({ latency: { p50, p99 } }) => (p50 === undefined ? "–" : `${delay(p50)} / ${delay(p99)}`);

// by: what the column is ordered by; show: its text; has: it is left out where no service has it
const COLUMNS = [
	{ id: "name", title: "Service", by: (s) => s.name },
	{ id: "state", title: "State", by: (s) => STATES.indexOf(status(s).state) },
	{ id: "share", title: "New flows to edge", by: (s) => model.share(s.raw) },
	{ id: "flows", title: "Open flows", number: true, by: (s) => status(s).flows, show: (s) => count(status(s).flows) },
	{ id: "in", title: "In", number: true, by: (s) => s.rates.in, show: (s) => rate(s.rates.in) },
	{ id: "out", title: "Out", number: true, by: (s) => s.rates.out, show: (s) => rate(s.rates.out) },
	{ id: "spark", title: "Last minute" },
	{ id: "latency", title: "p50 / p99", number: true, by: (s) => s.latency.p99, show: latency, has: (s) => status(s).connect },
	{ id: "cpu", title: "CPU", number: true, by: (s) => s.rates.cpu, show: (s) => cores(s.rates.cpu) },
	{ id: "memory", title: "Memory", number: true, by: (s) => model.memory(s.raw), show: (s) => bytes(model.memory(s.raw)) },
	{ id: "health", title: "Health", by: (s) => model.health(s.raw)?.word, has: (s) => model.health(s.raw) },
	{ id: "restarts", title: "Restarts", number: true, by: (s) => s.raw.restarts, show: (s) => count(s.raw.restarts ?? 0), has: (s) => s.raw.restarts },
];

// kept while the page lives: whoever comes back finds the table as it was
const order = { id: "name", down: false };
let wanted = "";

function matches(service) {
	const { state: now, steering, targets, interfaces } = status(service);
	const hay = [service.name, now, service.raw.tenant, steering, targets, interfaces].join(" ").toLowerCase();
	return wanted.toLowerCase().split(/\s+/).every((word) => hay.includes(word));
}

function ordered(services) {
	const { by } = COLUMNS.find((c) => c.id === order.id);
	const sign = order.down ? -1 : 1;
	return services.sort((a, b) => {
		const [x, y] = [by(a), by(b)];
		if (x === undefined || y === undefined || x === y) {
			return (x === undefined) - (y === undefined) || a.name.localeCompare(b.name);
		}
		return (typeof x === "string" ? x.localeCompare(y) : x - y) * sign;
	});
}

const classes = (c) => `c-${c.id}${c.number ? " number" : ""}`;

function row(service) {
	const cells = Object.fromEntries(
		COLUMNS.map((c) => [
			c.id,
			c.id === "name"
				? h("th", { class: classes(c), role: "rowheader", scope: "row" }, h("a", { href: `#/services/${encodeURIComponent(service.name)}`, class: "service", data: { service: service.name } }, service.name), service.raw.tenant && h("span", { class: "muted" }, service.raw.tenant))
				: h("td", { class: classes(c), role: "cell", data: { title: c.title } }),
		]),
	);
	const parts = { cells, state: pill(), health: pill(), meter: h("span", { class: "meter", "aria-hidden": "true" }), words: h("span", { class: "words" }), spark: spark() };
	cells.state.append(parts.state.node);
	cells.share.append(parts.meter, " ", parts.words);
	cells.spark.append(parts.spark.node);
	cells.health.append(parts.health.node);
	return Object.assign(h("tr", { role: "row" }, Object.values(cells)), { parts });
}

function fill({ parts }, service) {
	const { raw } = service;
	for (const c of COLUMNS) if (c.show) text(parts.cells[c.id], c.show(service));
	parts.state.update(status(service).state, model.tone(raw));
	parts.meter.style.setProperty("--asked", `${model.asked(raw) ?? 0}%`);
	parts.meter.style.setProperty("--now", `${model.share(raw)}%`);
	text(parts.words, model.steering(raw));
	parts.words.classList.toggle("attention", Boolean(model.held(raw)));
	parts.cells.restarts.classList.toggle("attention", raw.restarts > 0);
	const health = model.health(raw);
	parts.health.update(health?.word, health?.tone, health?.why);
	parts.spark.update(service.history);
}

export function overview() {
	const signals = strip();
	const search = h("input", {
		type: "search", id: "filter", placeholder: "Filter", "aria-label": "Filter by name, state, target or tenant",
		"aria-keyshortcuts": "/", value: wanted, autocomplete: "off", spellcheck: "false",
		on: { input: () => ((wanted = search.value), update()) },
	});
	const sort = (c, down) => (Object.assign(order, { id: c.id, down }), update());
	const sortable = COLUMNS.filter((c) => c.by);
	const choice = h("select", { "aria-label": "Order", class: "order", on: { change: () => sort(sortable[choice.selectedIndex], Boolean(sortable[choice.selectedIndex].number)) } }, sortable.map((c) => h("option", {}, c.title)));
	const heads = COLUMNS.map((c) => {
		const press = () => sort(c, order.id === c.id ? !order.down : Boolean(c.number));
		return h("th", { scope: "col", role: "columnheader", class: classes(c) }, c.by ? h("button", { type: "button", on: { click: press } }, c.title) : c.title);
	});
	const body = h("tbody", { role: "rowgroup" });
	const table = h("table", { class: "services data", role: "table", "aria-label": "Services" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), body);
	const total = h("span", { class: "muted", role: "status" });
	const empty = h("p", { class: "empty" });
	const node = h("div", { class: "stack" }, signals.node, heading("Services", total, choice, search), h("div", { class: "panel flush scroll" }, table, empty));

	function update() {
		signals.update();
		const every = [...state.services.values()];
		const shown = ordered(every.filter(matches));
		COLUMNS.forEach((c, n) => {
			table.classList.toggle(`no-${c.id}`, Boolean(c.has) && !every.some((s) => c.has(s)));
			attr(heads[n], "aria-sort", c.id === order.id ? (order.down ? "descending" : "ascending") : null);
		});
		choice.selectedIndex = sortable.findIndex((c) => c.id === order.id);
		list(body, shown, (s) => s.name, row, fill);
		table.hidden = !shown.length;
		empty.hidden = Boolean(shown.length);
		const flows = every.reduce((n, s) => n + (status(s).flows ?? 0), 0);
		const dead = every.filter((s) => model.tone(s.raw) === "bad").length;
		const number = shown.length < every.length ? `${shown.length} of ${every.length}` : count(every.length);
		text(total, every.length ? [number, dead && `${dead} dead`, plural(flows, "open flow")].filter(Boolean).join(" · ") : "");
		text(empty, !state.heard ? "Waiting for the controller." : every.length ? "No service matches the filter." : "There is no service here yet: viscum run makes one.");
	}

	return { node, update, title: "Services" };
}
