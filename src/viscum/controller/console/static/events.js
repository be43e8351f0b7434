// What has happened, newest first: the whole host's, or one service's.

import { follow, get } from "./api.js";
import { announce, facts, h, heading, list, text } from "./dom.js";
import { clock, visible } from "./format.js";
import { state, takeEvents } from "./state.js";

const PAGE = 1000;
let stream = null;

/** What the controller remembers, then what comes. Calling it again begins anew. */
export async function listen(denied) {
	quit();
	state.events = [];
	let after = "";
	for (;;) {
		const page = await get(`v1/events?limit=${PAGE}${after && `&after=${encodeURIComponent(after)}`}`);
		takeEvents(page.items);
		after = page.next;
		if (page.items.length < PAGE) break;
	}
	stream = follow(`v1/events/stream?after=${encodeURIComponent(after)}`, {
		message(event, kind) {
			if (kind === "missed") return void listen(denied).catch(() => {});
			takeEvents([event]);
			if (event.level === "error") announce(event.message);
		},
		denied,
	}, { resume: true });
}

export function quit() {
	stream?.close();
	stream = null;
}

/** Everything an event tells programs, and a crash's last lines. */
function details(event) {
	const { log, ...data } = event.data ?? {};
	const known = facts();
	known.update(Object.entries(data).filter(([, v]) => v !== null).map(([k, v]) => [visible(k), visible(typeof v === "string" ? v : JSON.stringify(v))]));
	if (!known.node.childElementCount && !log?.length) return "";
	return h(
		"details", {}, h("summary", {}, log?.length ? "details and last output" : "details"), known.node,
		log?.length > 0 && h("pre", { class: "log short wrap", tabindex: "0" }, log.map((line) => `${visible(line)}\n`)),
	);
}

const link = (name) => (state.services.has(name) ? h("a", { href: `#/services/${encodeURIComponent(name)}` }, name) : name);

function line(event) {
	return h(
		"li", { class: "event", data: { level: event.level ?? "info" } },
		h("time", { datetime: new Date(event.at * 1000).toISOString(), title: event.kind }, clock(event.at)),
		h("span", { class: "level" }, event.level ?? "info"),
		h("span", { class: "whose muted" }, event.service ? link(event.service) : event.tenant || "host"),
		h("div", {}, h("span", { class: "message" }, visible(event.message)), " ", h("code", { class: "muted" }, event.kind), details(event)),
	);
}

/** The list alone. wanted(event) chooses; most: so many of the newest. */
export function eventList({ service = "", most = Infinity, wanted = () => true }) {
	const items = h("ol", { class: "events data" });
	const none = h("p", { class: "muted" }, "Nothing has happened since the controller started.");
	return {
		node: h("div", {}, items, none),
		update() {
			const shown = state.events.filter((e) => (!service || e.service === service) && wanted(e));
			none.hidden = Boolean(shown.length);
			list(items, shown.slice(0, most), (e) => `${e.at} ${e.id}`, line);
		},
	};
}

export function eventsPage() {
	const words = h("input", { type: "search", id: "filter", placeholder: "Filter", "aria-label": "Filter events", "aria-keyshortcuts": "/", on: { input: () => update() } });
	const level = h("select", { "aria-label": "Level", on: { change: () => update() } }, [["", "Every level"], ["warning", "Warnings and errors"], ["error", "Errors"]].map(([value, title]) => h("option", { value }, title)));
	const ranks = ["info", "warning", "error"];
	function wanted(event) {
		const hay = `${event.service} ${event.kind} ${event.message} ${event.tenant}`.toLowerCase();
		return ranks.indexOf(event.level ?? "info") >= ranks.indexOf(level.value || "info") && hay.includes(words.value.toLowerCase());
	}
	const shown = eventList({ wanted });
	const total = h("span", { class: "muted", role: "status" });
	const node = h("div", { class: "stack" }, heading("Events", total, level, words), h("div", { class: "panel" }, shown.node));
	function update() {
		shown.update();
		text(total, state.events.length ? String(state.events.length) : "");
	}
	return { node, update, title: "Events" };
}

