// The last minute of a service's traffic as two small lines: no scale, only a shape.

import { attr } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, POINTS] = [96, 26, 60];

export function spark() {
	const node = document.createElementNS(NS, "svg");
	for (const [key, value] of Object.entries({ class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true", preserveAspectRatio: "none" })) node.setAttribute(key, value);
	const [out, into] = ["out", "in"].map((name) => {
		const line = document.createElementNS(NS, "path");
		line.setAttribute("class", name);
		node.append(line);
		return line;
	});

	/** "M… L…" of the newest points; a gap breaks the line. */
	function path(column, most) {
		const values = column.slice(-POINTS);
		const step = WIDTH / (POINTS - 1);
		let pen = false;
		let words = "";
		values.forEach((value, n) => {
			if (value === null) return (pen = false);
			const x = (WIDTH - (values.length - 1 - n) * step).toFixed(1);
			const y = (HEIGHT - 1.5 - (value / most) * (HEIGHT - 4)).toFixed(1);
			words += `${pen ? "L" : "M"}${x} ${y}`;
			pen = true;
		});
		return words;
	}

	return {
		node,
		update(history) {
			const recent = [...history.in.slice(-POINTS), ...history.out.slice(-POINTS)];
			const most = Math.max(1250, ...recent.map((v) => v ?? 0)); // at least 10 kbit/s: noise stays flat
			attr(out, "d", path(history.out, most));
			attr(into, "d", path(history.in, most));
		},
	};
}
