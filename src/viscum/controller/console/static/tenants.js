// Tenants: for the operator all of them, for a tenant what is its own.

import { all } from "./api.js";
import { h, text } from "./dom.js";
import { bytes, count } from "./format.js";
import * as model from "./model.js";
import { state } from "./state.js";

/** "2 of 5": what is used, and what is allowed */
function used(now, most, show = count) {
	if (now === undefined && most === undefined) return "–";
	return most === undefined || most === null ? show(now) : `${show(now)} of ${show(most)}`;
}

export function tenantsPage() {
	const body = h("tbody");
	const note = h("p", { class: "empty" }, "Asking.");
	const heads = ["Tenant", "Services", "Open flows", "Memory", "Targets it owns", "Interfaces"];
	const table = h("table", { class: "data" }, h("thead", {}, h("tr", {}, heads.map((t) => h("th", { scope: "col" }, t)))), body);
	const node = h("div", { class: "stack" }, h("h1", {}, "Tenants"), h("div", { class: "panel flush scroll" }, table, note));
	let tenants = [];

	async function load() {
		try {
			tenants = await all("v1/tenants");
			text(note, tenants.length ? "" : "There is no tenant: every service is the operator's own.");
		} catch (error) {
			text(note, error.words?.() ?? String(error));
		}
		update();
	}

	function update() {
		note.hidden = !note.textContent;
		table.hidden = !tenants.length;
		body.replaceChildren(
			...tenants.map((tenant) => {
				const mine = [...state.services.values()].filter((s) => s.raw.tenant === tenant.name);
				const total = (of) => mine.reduce((n, s) => n + (of(s.raw) ?? 0), 0);
				const quota = tenant.quota ?? tenant;
				return h(
					"tr", {},
					h("th", { scope: "row" }, tenant.name),
					h("td", {}, used(mine.length, quota.services)),
					h("td", {}, used(total((raw) => model.status(raw).flows), quota.flows)),
					h("td", {}, used(total(model.memory), quota.memory, bytes)),
					h("td", {}, [...(tenant.targets ?? []), ...(tenant.prefixes ?? []), ...(tenant.domains ?? [])].join(", ") || "–"),
					h("td", {}, (tenant.interfaces ?? []).join(", ") || "–"),
				);
			}),
		);
	}

	load();
	return { node, update() {}, title: "Tenants" };
}
