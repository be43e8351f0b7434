// How the box itself does: what the load guard looks at.

import { h, list, text } from "./dom.js";
import { count, percent } from "./format.js";
import { state } from "./state.js";

const TITLES = {
	cpu: "CPU busy",
	"cpu-pressure": "Waiting for CPU",
	"memory-pressure": "Waiting for memory",
	"memory-available": "Memory available",
	"time-squeezes": "Time squeezes",
	drops: "Packets dropped",
};

/** [{id, title, value, limit, part}]: part is how near it is to its set-point, in percent */
export function signals() {
	return (state.load?.signals ?? []).map(({ name, value, set_point, pressure }) => {
		const show = ["time-squeezes", "drops"].includes(name) ? (n) => `${count(n)}/s` : percent;
		return { id: name, title: TITLES[name] ?? name, value: show(value), limit: show(set_point), part: Math.min(100, pressure * 100) };
	});
}

/** One line of them for the overview; not there while nothing is known. */
export function strip() {
	const node = h("dl", { class: "signals data", "aria-label": "Load of this box" });
	return {
		node,
		update() {
			const found = signals();
			node.hidden = !found.length;
			list(
				node, found, (s) => s.id,
				(s) => h("div", {}, h("dt", {}, s.title), h("dd")),
				(made, s) => text(made.lastChild, s.value).classList.toggle("attention", s.part >= 100),
			);
		},
	};
}
