// A service's output, live. It is the service's own text: control characters are shown, not obeyed.

import { follow } from "./api.js";
import { h, text } from "./dom.js";
import { visible } from "./format.js";

const KEPT = 2000; // lines

export function logTail(name) {
	const output = h("pre", { class: "log", role: "log", "aria-label": `Output of ${name}`, "aria-live": "off", tabindex: "0" });
	const note = h("span", { class: "muted", role: "status" });
	const wrap = h("input", { type: "checkbox", on: { change: () => output.classList.toggle("wrap", wrap.checked) } });
	const follows = h("input", { type: "checkbox", checked: true, on: { change: () => follows.checked && down() } });
	const node = h(
		"section", { class: "panel", "aria-label": "Log" },
		h("div", { class: "row spread" }, h("h2", {}, "Log"), note,
			h("div", { class: "row" }, h("label", { class: "check" }, follows, "Follow"), h("label", { class: "check" }, wrap, "Wrap"))),
		output,
	);

	const down = () => (output.scrollTop = output.scrollHeight);
	// who scrolls up reads; who comes back to the end follows again
	output.addEventListener("scroll", () => {
		follows.checked = output.scrollHeight - output.scrollTop - output.clientHeight < 24;
	});

	const labels = new Set();

	/** Lines of one instance; of which one is told when there are several. */
	function add({ label, lines }) {
		const stays = follows.checked;
		if (lines.length) labels.add(label);
		output.classList.toggle("many", labels.size > 1);
		for (const line of lines) output.append(h("span", { data: { label } }, `${visible(line)}\n`));
		while (output.childElementCount > KEPT) output.firstElementChild.remove();
		if (stays) down();
	}

	const stream = follow(`v1/services/${encodeURIComponent(name)}/logs/stream?lines=200`, {
		open() {
			output.replaceChildren();
			labels.clear();
			text(note, "");
		},
		message: add,
		end: () => text(note, "its processes are gone"),
		lost: (problem) => text(note, `waiting: ${problem.message}`),
		denied: (problem) => text(note, problem.words()),
	});
	return { node, again: stream.again, close: stream.close };
}
