// Numbers and times as people read them. Every function answers "–" for what is not known.

const NONE = "–";
const known = (n) => typeof n === "number" && Number.isFinite(n);

function scaled(n, step, units) {
	let i = 0;
	while (Math.abs(n) >= step * 0.9995 && i < units.length - 1) (n /= step), i++;
	const digits = i === 0 || Math.abs(n) >= 99.95 ? 0 : 1;
	return `${n.toFixed(digits)} ${units[i]}`;
}

export const bytes = (n) => (known(n) ? scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]) : NONE);
/** bytes per second in, bits per second out */
export const rate = (n) => (known(n) ? scaled(n * 8, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]) : NONE);
export const count = (n) => (known(n) ? Math.round(n).toLocaleString("en") : NONE);
export const percent = (n) => (known(n) ? `${n.toFixed(n && Math.abs(n) < 9.95 && n % 1 ? 1 : 0)} %` : NONE);
/** CPU seconds per second, as percent of one core */
export const cores = (n) => (known(n) ? percent(n * 100) : NONE);

/** seconds in, from microseconds to seconds out */
export function delay(s) {
	if (!known(s)) return NONE;
	if (s < 1e-3) return `${(s * 1e6).toFixed(0)} µs`;
	if (s < 1) return `${(s * 1e3).toFixed(s < 0.01 ? 1 : 0)} ms`;
	return `${s.toFixed(1)} s`;
}

/** seconds as 3 s, 4 min, 2 h 5 min, 3 d */
export function span(s) {
	if (!known(s)) return NONE;
	if (s < 1) return "less than a second";
	if (s < 100) return `${Math.round(s)} s`;
	if (s < 3600) return `${Math.round(s / 60)} min`;
	if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
	return `${Math.round(s / 86400)} d`;
}

const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** seconds since 1970 as 12:03:07, with the date if it is not today's */
export function clock(at) {
	if (!known(at)) return NONE;
	const date = new Date(at * 1000);
	const today = new Date().toDateString() === date.toDateString();
	return today ? time.format(date) : `${day.format(date)} ${time.format(date)}`;
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// Colours of a terminal say nothing here. Whatever else can't be seen is shown, so that it can't
// hide or reorder what can: control characters as ^[, marks of direction by their number.
const COLOURS = /\x1b\[[0-9;]*m/g;
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f]/g;
const UNSEEN = /[\x80-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** Text of others, made visible. Tabs and newlines stay. */
export function visible(line) {
	return String(line)
		.replace(COLOURS, "")
		.replace(CONTROLS, (c) => `^${String.fromCharCode(c.charCodeAt(0) ^ 64)}`)
		.replace(UNSEEN, (c) => `\u27e8U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
}
