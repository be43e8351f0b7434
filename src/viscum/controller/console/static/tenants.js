// Tenants: for the operator all of them, for a tenant its own.

import { all } from "./api.js";
import { facts, h, panel, pill, text } from "./dom.js";
import { bytes, count } from "./format.js";
import * as model from "./model.js";
import { state } from "./state.js";

const QUOTAS = [
	["services", "Services", count],
	["cpu", "CPU cores", (n) => String(+n.toFixed(2))],
	["memory", "Memory", bytes],
	["processes", "Processes", count],
	["flows", "Open flows", count],
];

/** 256M as a number of bytes; numbers as they are */
function size(said) {
	const found = /^([\d.]+)([KMGT]?)/i.exec(said);
	return found ? found[1] * 1024 ** " KMGT".indexOf(found[2].toUpperCase() || " ") : undefined;
}

const mine = (tenant) => [...state.services.values()].filter((s) => s.raw.tenant === tenant.name);

function quota(tenant, [key, title, show]) {
	const most = size(tenant.allowance?.quotas?.[key]);
	const now = key === "flows" ? mine(tenant).reduce((n, s) => n + (model.status(s.raw).flows ?? 0), 0) : tenant.used?.[key];
	if (now === undefined) return "";
	const bar = h("span", { class: "bar", vars: { part: `${most ? Math.min(100, (now / most) * 100) : 0}%` } });
	return h("div", { class: "card" }, h("h3", {}, title), h("b", {}, show(now)), most !== undefined && bar, h("span", { class: "muted" }, most === undefined ? "no limit" : `of ${show(most)}`));
}

function link(service) {
	const mark = pill();
	mark.update(model.status(service.raw).state, model.tone(service.raw));
	return h("span", { class: "row" }, h("a", { href: `#/services/${encodeURIComponent(service.name)}` }, service.name), mark.node);
}

function card(tenant) {
	const owns = facts();
	const { targets, domains, interfaces, clients, description } = tenant.allowance ?? {};
	owns.update([
		["Targets", targets?.join(", ")],
		["Domains", domains?.join(", ")],
		["Interfaces", interfaces?.join(", ")],
		["Clients", clients?.join(", ")],
	]);
	return panel(
		tenant.name, { class: "stack" }, description,
		h("div", { class: "cards" }, QUOTAS.map((q) => quota(tenant, q))), owns.node, h("div", { class: "row" }, mine(tenant).map(link)),
		tenant.beyond?.length > 0 && h("p", { class: "attention" }, `Beyond what it may have: ${tenant.beyond.map((p) => `${p.field} ${p.message}`).join("; ")}.`),
	);
}

export function tenantsPage() {
	const note = h("p", { class: "empty" }, "Asking the controller.");
	const cards = h("div", { class: "stack data" });
	const title = state.me.tenant ? "Your tenant" : "Tenants";

	(async () => {
		try {
			const tenants = await all("v1/tenants");
			text(note, tenants.length ? "" : "There is no tenant: every service is the operator's own.");
			cards.replaceChildren(...tenants.map(card));
		} catch (error) {
			text(note, error.words?.() ?? String(error));
		}
		note.hidden = !note.textContent;
	})();
	return { node: h("div", { class: "stack" }, h("h1", {}, title), note, cards), update() {}, title };
}
