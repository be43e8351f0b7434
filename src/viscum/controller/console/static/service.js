// One service: what it does for whom, and why.

import { buttons } from "./actions.js";
import { get } from "./api.js";
import { facts, h, list, panel, pill, text } from "./dom.js";
import { eventList } from "./events.js";
import { decisions, explainForm } from "./explain.js";
import { bytes, cores, count, delay, percent, plural, rate, span } from "./format.js";
import { logTail } from "./log.js";
import * as model from "./model.js";
import { plot } from "./plots.js";
import { specPanel } from "./spec.js";
import { state } from "./state.js";

function plots(service) {
	const past = service.history;
	const one = (title, column, axis, label, colour, more) =>
		plot({ title, axis, data: () => [past.at, past[column]], series: [{ label, colour, fill: `${colour}-soft`, ...more }], binary: axis === bytes });
	return [
		plot({
			title: "Traffic",
			axis: rate,
			data: () => [past.at, past.out, past.in],
			series: [
				{ label: "to clients", colour: "edge", fill: "edge-soft" },
				{ label: "from clients", colour: "cloud" },
			],
		}),
		plot({
			title: "New flows to the edge",
			axis: percent,
			top: 104,
			seconds: 900,
			data() {
				const before = (service.changes ?? []).filter(({ at }) => at < past.at[0]);
				const joined = (column, of) => [...before.map(of), ...past[column]];
				return [joined("at", (c) => c.at), joined("share", (c) => c.share), joined("asked", () => null)];
			},
			series: [
				{ label: "now", colour: "edge", fill: "edge-soft", stepped: true },
				{ label: "asked for", colour: "muted", dash: true, stepped: true },
			],
		}),
		plot({
			title: "SYN to SYN-ACK",
			axis: delay,
			data: () => [past.at, past.p99, past.p50, past.rtt],
			series: [
				{ label: "p99", colour: "warn" },
				{ label: "p50", colour: "edge" },
				{ label: "clients' RTT", colour: "muted", dash: true },
			],
		}),
		one("Open flows", "flows", count, "at the edge", "edge", { stepped: true }),
		one("CPU", "cpu", cores, "of one core", "cloud"),
		one("Memory", "memory", bytes, "with page cache", "cloud"),
	];
}

// of an instance i of generation g
const COLUMNS = [
	["Generation", ({ i }) => i.label],
	["State", ({ g }) => g.state + (typeof g.ends_in === "number" ? `, ${span(g.ends_in)} left` : "")],
	["Process", ({ i }) => String(i.pid ?? "ended")],
	["Listens on", ({ i }) => i.listens?.join(", ") || "nothing"],
	["Open flows", ({ i }) => count(i.flows), "number"],
	["CPU used", ({ i }) => (typeof i.cpu === "number" ? `${i.cpu.toFixed(1)} s` : "–"), "number"],
	["Memory", ({ i }) => bytes(i.memory), "number"],
	["Processes", ({ i }) => count(i.processes), "number"],
	["Namespace", ({ i }) => i.namespace],
];

function instances() {
	const body = h("tbody");
	const table = h("table", {}, h("thead", {}, h("tr", {}, COLUMNS.map(([title, , kind]) => h("th", { scope: "col", class: kind }, title)))), body);
	const node = panel("Generations and instances", { class: "data" }, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of instances" }, table));
	return {
		node,
		update(raw) {
			const rows = (model.status(raw).generations ?? []).flatMap((g) => g.instances.map((i) => ({ g, i })));
			node.hidden = !rows.length;
			list(body, rows, ({ i }) => i.label, () => h("tr", {}, COLUMNS.map(([, , kind]) => h("td", { class: kind }))), (row, at) => COLUMNS.forEach(([, show], n) => text(row.children[n], show(at))));
		},
	};
}

export function servicePage(name) {
	const service = state.services.get(name);
	if (!service) {
		const words = state.heard ? `There is no service ${name} here, or it is not yours to see.` : "Waiting for the controller.";
		return { node: h("p", { class: "empty" }, words), title: name, update() {}, missing: name };
	}
	const path = `v1/services/${encodeURIComponent(name)}`;
	const pills = { state: pill(), health: pill() };
	const sentence = h("p", { class: "sentence" });
	const drift = h("p", { class: "attention" });
	const acts = buttons(service);
	const drawn = plots(service);
	const known = facts();
	const [decided, running, spec, log] = [decisions(), instances(), specPanel(), logTail(name)];
	const told = eventList({ service: name, most: 12 });
	const node = h(
		"article", { class: "stack", "aria-labelledby": "service-title" },
		h("div", { class: "row spread" },
			h("div", { class: "row" }, h("a", { href: "#/", class: "back", "aria-label": "All services" }, "←"), h("h1", { id: "service-title" }, name), pills.state.node, pills.health.node),
			acts.node),
		h("div", { class: "data" }, sentence, drift),
		h("div", { class: "plots data" }, drawn.map((p) => p.node)),
		h("div", { class: "columns" }, panel("What it stands in for", { class: "data" }, known.node), decided.node),
		running.node, explainForm(service), log.node, panel("Events", {}, told.node), spec.node,
	);

	if (service.raw.load) get(`${path}/history`).then((said) => (service.changes = said.items), () => {});

	async function fetchSpec() {
		try {
			service.spec = (await get(path)).spec;
			spec.update(service.spec);
			const isName = (target) => /[a-z]/i.test(target) && !target.includes(":");
			service.names = service.spec.steer.targets.some(isName) ? (await get(`${path}/names`)).items : [];
			update();
		} catch (error) {
			spec.fail(error);
		}
	}

	let [version, reading] = [];
	function update() {
		const raw = { ...service.raw, spec: service.spec };
		const s = model.status(raw);
		const health = model.health(raw);
		const targets = model.targets(raw);
		const { steer = {}, priority } = service.spec ?? {};
		pills.state.update(s.state, model.tone(raw));
		pills.health.update(health?.word, health?.tone, health?.why);
		text(sentence, model.inWords(raw));
		text(drift, s.drift?.length ? `It is not as asked: ${s.drift.join("; ")}.` : "");
		acts.update();
		for (const one of [...drawn, told]) one.update();
		for (const one of [decided, running]) one.update(raw);
		known.update([
			["Targets", targets.join(", ")],
			["By name", service.names?.map((n) => `${n.name} is ${n.address} (${n.source}, ${plural(n.flows, "flow")})`).join("; ")],
			["Ports", s.ports?.join(", ") || "all of TCP and UDP"],
			["Clients on", s.interfaces?.join(", ")],
			["Clients", steer.clients?.join(", ")],
			["Tenant", raw.tenant],
			["Director", s.director],
			["Priority", priority !== undefined && String(priority)],
			["Restarts", raw.restarts && `${count(raw.restarts)} since the controller started`],
			["Health", health?.why],
			["Bytes", `${bytes(s.in_bytes)} in, ${bytes(s.out_bytes)} out`],
			["Kept off the WAN", s.off_wan_bytes > 0 && bytes(s.off_wan_bytes)],
		]);
		// another generation has another log; what is asked for may have changed with what is
		const logs = `${state.connected} ${s.generations?.map((g) => g.number)}`;
		if (reading && logs !== reading && s.generations?.length) log.again();
		reading = logs;
		const now = `${logs} ${s.share} ${s.targets} ${s.ports}`;
		if (now !== version) {
			version = now;
			fetchSpec();
		}
	}

	return {
		node,
		title: name,
		service,
		update,
		close() {
			for (const one of [...drawn, log]) one.close();
		},
	};
}
