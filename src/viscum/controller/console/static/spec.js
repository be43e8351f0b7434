// A service's spec, as its file would say it.

import { h, panel, text } from "./dom.js";

/** A JSON string is a TOML basic string, but for what JSON need not escape. */
const quoted = (value) => JSON.stringify(value).replace(/\x7f/g, "\\u007f");
const key = (name) => (/^[A-Za-z0-9_-]+$/.test(name) ? name : quoted(name));

function value(v) {
	if (typeof v === "string") return quoted(v);
	if (Array.isArray(v)) return `[${v.map(value).join(", ")}]`;
	if (v && typeof v === "object") return `{ ${Object.entries(v).map(([k, w]) => `${key(k)} = ${value(w)}`).join(", ")} }`;
	return String(v);
}

/** A spec has two levels: keys, and tables of keys. */
export function toml(spec) {
	const isTable = (v) => v && typeof v === "object" && !Array.isArray(v);
	const line = ([k, v]) => `${key(k)} = ${value(v)}`;
	const entries = Object.entries(spec).filter(([, v]) => v !== null);
	const plain = entries.filter(([, v]) => !isTable(v)).map(line);
	const tables = entries
		.filter(([, v]) => isTable(v))
		.map(([k, v]) => [`[${key(k)}]`, ...Object.entries(v).filter(([, w]) => w !== null).map(line)].join("\n"));
	return [plain.join("\n"), ...tables].join("\n\n");
}

export function specPanel() {
	const output = h("pre", { class: "code", tabindex: "0", role: "region", "aria-label": "Spec as TOML" });
	return {
		node: panel("Spec", {}, output),
		update: (spec) => text(output, toml(spec)),
		fail: (error) => text(output, error.words?.() ?? String(error)),
	};
}
