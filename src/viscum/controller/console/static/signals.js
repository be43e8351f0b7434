// How the box itself does: what the load guard looks at.

import { h, list, text } from "./dom.js";
import { bytes, count, percent } from "./format.js";
import { state } from "./state.js";

// by the name the API gives it; part: how much of a bar it fills, in percent
const SIGNALS = [
	{ id: "cpu", title: "CPU busy", show: percent, part: (v) => v },
	{ id: "psi_cpu", title: "Waiting for CPU", show: percent, part: (v) => v },
	{ id: "psi_memory", title: "Waiting for memory", show: percent, part: (v) => v },
	{ id: "memory_available", title: "Memory available", show: bytes },
	{ id: "softnet_dropped", title: "Packets dropped", show: (v) => `${count(v)}/s` },
	{ id: "softnet_squeezed", title: "Time squeezes", show: (v) => `${count(v)}/s` },
];

export function signals() {
	const { load = {}, limits = {} } = state.host ?? {};
	return SIGNALS.filter((s) => typeof load[s.id] === "number").map((s) => ({ ...s, value: load[s.id], limit: limits[s.id] }));
}

/** One line of them for the overview; not there while nothing is known. */
export function strip() {
	const node = h("dl", { class: "signals data", "aria-label": "Load of this box" });
	return {
		node,
		update() {
			const found = signals();
			node.hidden = !found.length;
			list(node, found, (s) => s.id, (s) => h("div", {}, h("dt", {}, s.title), h("dd")), (made, s) => text(made.lastChild, s.show(s.value)));
		},
	};
}
