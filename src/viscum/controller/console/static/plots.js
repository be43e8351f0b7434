// Plots by uPlot, which is loaded when the first one is drawn; without it the page says so.

import { h, text } from "./dom.js";

const PLACE = new URL(".", import.meta.url);
// the only script that is named at run time, and the policy that lets it be (see POLICY in __init__.py)
const trusted = window.trustedTypes?.createPolicy("viscum", { createScriptURL: () => `${PLACE}uPlot.iife.min.js` });
const POWERS = Array.from({ length: 41 }, (_, n) => 2 ** n);
const HEIGHT = 150;
let loading;

/** uPlot, or null where it was not built in. */
export function library() {
	loading ??= new Promise((resolve) => {
		const script = h("script");
			script.src = trusted ? trusted.createScriptURL("") : `${PLACE}uPlot.iife.min.js`;
		script.addEventListener("load", () => resolve(window.uPlot ?? null));
		script.addEventListener("error", () => resolve(null));
		document.head.append(script);
	});
	return loading;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** `light-dark()` and variables as a canvas understands them. */
function resolved(name) {
	const probe = h("span", { hidden: true });
	probe.style.color = `var(--${name})`;
	document.body.append(probe);
	const found = getComputedStyle(probe).color;
	probe.remove();
	return found || colour(name);
}

/** A plot with a heading that tells the newest values, for eyes and screen readers alike.
 *
 *  axis(number) -> text; series: [{label, colour, fill, dash, stepped}]; data(): [at, …columns].
 *  Returns {node, update(), close()}; the node hides while no series has a value.
 */
export function plot({ title, series, data, axis, top, binary = false, seconds = 300 }) {
	const legend = h("span", { class: "legend" });
	const marks = series.map((s) => {
		const value = h("b");
		const swatch = h("i", { class: `swatch${s.dash ? " dashed" : ""}`, vars: { swatch: `var(--${s.colour})` } });
		legend.append(h("span", {}, swatch, s.label, " ", value));
		return value;
	});
	const area = h("div", { class: "canvas", role: "img" });
	const node = h("figure", { class: "plot panel" }, h("figcaption", {}, h("h2", {}, title), legend), area);
	let drawn = null;
	let closed = false;

	function options(uPlot, width) {
		const grid = { stroke: resolved("line"), width: 1 };
		const common = { stroke: resolved("muted"), grid, ticks: { ...grid, size: 4 }, font: "11px system-ui" };
		return {
			width,
			height: HEIGHT,
			legend: { show: false },
			cursor: { sync: { key: "viscum" }, drag: { x: false, y: false }, y: false },
			scales: {
				// at least a minute, at most `seconds`: the newest stays at the right
				x: { range: (_, min, max) => [max - Math.min(Math.max(max - min, 60), seconds), max] },
				y: { range: (_, min, max) => [0, top ?? Math.max(max ?? 0, 1e-9) * 1.15] },
			},
			axes: [
				{ ...common, space: 70, size: 26, values: (_, at) => at.map((t) => (t === null ? "" : new Date(t * 1000).toTimeString().slice(0, 8))) },
				{ ...common, size: (_, labels) => 14 + 6.5 * Math.max(4, ...(labels ?? []).map((l) => l.length)), space: 32, incrs: binary ? POWERS : undefined, values: (_, values) => values.map((v) => axis(v)) },
			],
			series: [
				{},
				...series.map((s) => ({
					label: s.label,
					stroke: resolved(s.colour),
					width: 1.5,
					fill: s.fill ? resolved(s.fill) : undefined,
					dash: s.dash ? [4, 4] : undefined,
					points: { show: false },
					paths: s.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
				})),
			],
			hooks: { setCursor: [(u) => tell(u.cursor.idx ?? null)] },
		};
	}

	/** The values at one point, by default the newest. */
	function tell(index) {
		const columns = data();
		const words = [];
		series.forEach((s, n) => {
			const at = index ?? columns[0].length - 1;
			const value = axis(columns[n + 1][at]);
			text(marks[n], value);
			words.push(`${s.label} ${value}`);
		});
		area.setAttribute("aria-label", `${title}: ${words.join(", ")}`);
	}

	async function draw() {
		const uPlot = await library();
		if (closed || drawn) return;
		if (!uPlot) {
			area.replaceChildren(h("p", { class: "muted" }, "Plots are not built into this installation (scripts/build-console)."));
			return;
		}
		drawn = new uPlot(options(uPlot, Math.max(area.clientWidth, 200)), data(), area);
	}

	const watch = new ResizeObserver(() => drawn?.setSize({ width: Math.max(area.clientWidth, 200), height: HEIGHT }));
	watch.observe(area);

	function theme() {
		drawn?.destroy();
		drawn = null;
		draw();
	}
	document.documentElement.addEventListener("theme", theme);

	return {
		node,
		update() {
			const columns = data();
			node.hidden = !columns.slice(1).some((column) => column.some((v) => v !== null));
			if (node.hidden) return;
			if (drawn) drawn.setData(columns);
			else draw();
			if (!drawn?.cursor.idx) tell(null);
		},
		close() {
			closed = true;
			watch.disconnect();
			document.documentElement.removeEventListener("theme", theme);
			drawn?.destroy();
		},
	};
}
