// The box: its load, as the guard sees it, and the controller itself.

import { facts, h, list, panel, text } from "./dom.js";
import { count } from "./format.js";
import { signals } from "./signals.js";
import { state } from "./state.js";

export function hostPage() {
	const cards = h("div", { class: "cards" });
	const none = h("p", { class: "muted" }, "The controller does not tell how loaded this box is.");
	const rows = facts();
	const node = h("div", { class: "stack data" }, h("h1", {}, "Host"), panel("Load", {}, cards, none), panel("Controller", {}, rows.node));

	function card(signal) {
		const parts = { value: h("b"), bar: h("span", { class: "bar" }), limit: h("span", { class: "muted" }) };
		return Object.assign(h("div", { class: "card" }, h("h3", {}, signal.title), Object.values(parts)), { parts });
	}

	function fill({ parts }, signal) {
		text(parts.value, signal.value).classList.toggle("attention", signal.part >= 100);
		parts.bar.style.setProperty("--part", `${signal.part}%`);
		text(parts.limit, `set-point ${signal.limit}`);
	}

	function update() {
		const found = signals();
		none.hidden = Boolean(found.length);
		list(cards, found, (s) => s.id, card, fill);
		const { version, state_dir, pid, services, you, role, tenant } = state.host ?? {};
		rows.update([
			["Version", version],
			["State directory", state_dir],
			["Process", pid && String(pid)],
			["Services", services !== undefined && count(services)],
			["You are", you],
			["Your role", role],
			["Your tenant", tenant],
		]);
	}
	return { node, update, title: "Host" };
}
